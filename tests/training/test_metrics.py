"""Metrics: what damage, kills and full disks leave of them."""

import pathlib

import damages
import pytest
from event_files import scalars

from tatnet import training


def written(folder, *steps, resume_from=0):
  with training.MetricsWriter(folder, resume_from) as writer:
    for step in steps:
      writer.write(step, {"loss": 1.0 / step})


@pytest.mark.parametrize(
  "line", ["{", "null", "[1]", "7", '{"loss": 1.0}', '{"step": "2"}', '{"step": 2, "loss": "x"}']
)
def test_one_bad_line_drops_no_other(tmp_path, caplog, line):
  written(tmp_path, 1, 2, 3)
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().split("\n")
  path.write_text("\n".join([lines[0], line, *lines[2:]]))
  assert [row["step"] for row in training.read_metrics(tmp_path)] == [1, 3]
  assert "damaged lines are left out: 2" in caplog.text


@pytest.mark.parametrize("how", damages.DAMAGES)
def test_damaged_metrics_are_read_as_far_as_they_go(tmp_path, how):
  written(tmp_path, *range(1, 10))
  how(tmp_path / "metrics.jsonl")
  if how is damages.made_a_folder:
    with pytest.raises(IsADirectoryError):
      training.read_metrics(tmp_path)
    return
  found = [row["step"] for row in training.read_metrics(tmp_path)]
  least = {damages.flipped: 7, damages.cut: 8}.get(how, 0)
  assert len(found) >= least
  assert set(found) <= set(range(1, 10))


def test_nothing_is_cut_where_a_run_begins_anew(tmp_path):
  written(tmp_path, 1, 2)
  written(tmp_path, 1)
  written(tmp_path, 1, 2, 3)
  assert [row["step"] for row in training.read_metrics(tmp_path)] == [1, 2, 3]
  kept = sorted(tmp_path.glob("metrics.jsonl.*"))
  assert [path.read_text().count("\n") for path in kept] == [2, 1]


def test_every_line_is_on_the_disk_before_the_next_step(tmp_path):
  writer = training.MetricsWriter(tmp_path)
  for step in range(1, 4):
    writer.write(step, {"loss": 0.5, "accuracy": 0.25})
    assert scalars(tmp_path)[step] == {"loss": 0.5, "accuracy": 0.25}
    assert training.read_metrics(tmp_path)[-1]["step"] == step
  writer.close()


def test_events_after_a_resume_replace_those_before(tmp_path):
  written(tmp_path, 1, 2, 3)
  written(tmp_path, 3, 4, resume_from=2)
  assert sorted(scalars(tmp_path)) == [1, 2, 3, 4]


def test_a_full_disk_is_named(tmp_path):
  full = pathlib.Path("/dev/full")
  if not full.exists():
    pytest.skip("no /dev/full")
  for name in ("metrics.jsonl", "events"):
    writer = training.MetricsWriter(tmp_path / name)
    part = writer if name == "metrics.jsonl" else writer._events
    part._file.close()
    part._file = full.open("a" if part is writer else "ab")
    with pytest.raises(OSError, match=f"No space left on device: .*{name}"):
      writer.write(1, {"loss": 1.0})
    writer.close()  # and is silent
