"""How runs end and go on: signals, kills, damage, full disks, all within one process."""

import json
import logging
import pathlib
import random
import shutil
import signal
import subprocess

import damages
import jax
import numpy as np
import pytest
from event_files import scalars

from tatnet import training

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
STEPS = 24


@pytest.fixture(scope="module")
def trainer():
  """The trainer, and a config of which all runs share what they compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(EXAMPLES))
    import loop
    import train

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    config = train.CONFIGS["digits"][1].replaced(
      **{"network": "mlp", "depth": 3, "width": 8, "activation": "tanh", "method": "dks"},
      **{"optimizer": "kfac", "damping": 1e-2, "burn_in": 2, "inverse_every": 3},
      **{"steps": STEPS, "batch_size": 64, "contrast": (), "warmup_steps": 0, "fake_data": True},
      **{"evaluate_every": 6, "checkpoint_every": 4, "dropout_rate": 0.1},
    )
    parts = loop.assemble(config.resolved())
    patch.setattr(train, "assemble", lambda _: parts)
    patch.setattr(training, "plot_runs", lambda *_, **__: None)  # a second each
    yield train, loop, config
    jax.config.update("jax_disable_most_optimizations", before)


def state_of(folder):
  import orbax.checkpoint as ocp

  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(folder / "checkpoints" / str(STEPS) / "state")


def numbers(folder):
  """Everything that was measured, except how long it took."""
  return [
    {key: value for key, value in row.items() if key != "images_per_second"}
    for row in training.read_metrics(folder)
  ]


@pytest.fixture(scope="module")
def whole(trainer, tmp_path_factory):
  """A run that nothing interrupted."""
  train, _, config = trainer
  folder = tmp_path_factory.mktemp("whole") / "run"
  train.main(config.replaced(out=str(folder)))
  return folder


def assert_same(folder, whole):
  """To the last bit: metrics, events, states, and the best one."""
  assert numbers(folder) == numbers(whole)
  events, expected = scalars(folder), scalars(whole)
  for each in (*events.values(), *expected.values()):
    each.pop("images_per_second", None)
  assert events == expected
  jax.tree.map(np.testing.assert_array_equal, state_of(folder), state_of(whole))
  best = training.Checkpoints(whole / "best").latest()
  assert training.Checkpoints(folder / "best").latest() == best


class Killed(BaseException):
  """As SIGKILL, nothing that cleans up behind an error sees it."""


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_twenty_kills_at_random_leave_no_trace(trainer, whole, tmp_path, monkeypatch):
  train, loop, config = trainer
  rng = random.SystemRandom()
  left = [0]

  def deadly(function, after):
    def wrapped(*args, **options):
      left[0] -= 1
      dies = left[0] == 0
      if dies and not after:
        raise Killed
      result = function(*args, **options)
      if dies:
        raise Killed
      return result

    return wrapped

  points = [
    *((loop.Record, "step"), (loop.Record, "checkpoint"), (loop.Record, "evaluation")),
    *((training.Checkpoints, "_write"), (training.Checkpoints, "_remove_old")),
    *((training.MetricsWriter, "write"), (pathlib.Path, "rename"), (train.folders, "write_config")),
  ]
  for place, name in points:
    monkeypatch.setattr(place, name, deadly(getattr(place, name), rng.random() < 0.5))
  kills = runs = 0
  while kills < 20:
    folder, done = tmp_path / str(runs), False
    while not done:
      left[0] = rng.randrange(3, 50)
      try:
        train.main(config.replaced(out=str(folder), resume=folder.exists()))
        done = True
      except Killed:
        kills += 1
    left[0] = 0
    assert_same(folder, whole)
    runs += 1


def raising(function, number=signal.SIGTERM):
  """The function, with a signal that comes while it runs, the first time."""
  sent = []

  def wrapped(*args, **options):
    if not sent:
      sent.append(True)
      signal.raise_signal(number)
    return function(*args, **options)

  return wrapped


PHASES = {
  "a step": lambda train, loop: (loop.Record, "step"),
  "a checkpoint": lambda train, loop: (training.Checkpoints, "_write"),
  "the best": lambda train, loop: (loop.Record, "evaluation"),
  "an evaluation": lambda train, loop: (training, "parameters_to_evaluate"),
}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize(
  ("phase", "number"), [*((phase, signal.SIGTERM) for phase in PHASES), ("a step", signal.SIGINT)]
)
def test_a_signal_in_every_phase(trainer, whole, tmp_path, monkeypatch, caplog, phase, number):
  train, loop, config = trainer
  place, name = PHASES[phase](train, loop)
  original = getattr(place, name)
  monkeypatch.setattr(place, name, raising(original, number))
  with pytest.raises(train.endings.Ended, match="Stopped and saved at step") as ended:
    train.main(config.replaced(out=str(tmp_path / "run")))
  assert ended.value.code == 75
  assert "A second one ends the run at once" in caplog.text
  saved = training.Checkpoints(tmp_path / "run" / "checkpoints").latest()
  assert f"at step {saved}." in str(ended.value)
  if phase == "an evaluation":  # which is left out, and made up for
    assert saved == 6
    assert not any("test_accuracy" in row for row in numbers(tmp_path / "run"))
  train.main(config.replaced(out=str(tmp_path / "run"), resume=True))
  assert_same(tmp_path / "run", whole)


@pytest.fixture
def copy(whole, tmp_path):
  """A run that was stopped in the middle, as far as its folder tells."""
  shutil.copytree(whole, tmp_path / "run")
  return tmp_path / "run"


def content(folder):
  files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
  return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("how", [*damages.DAMAGES, "gone"])
def test_a_resume_without_an_intact_checkpoint_changes_nothing(trainer, copy, how):
  train, _, config = trainer
  if how == "gone":
    shutil.rmtree(copy / "checkpoints")
  else:
    for manifest in list((copy / "checkpoints").glob("*/manifest.json")):
      how(manifest)
  before = content(copy)
  with pytest.raises(train.endings.Ended, match=r"None of the checkpoints.*begin anew") as ended:
    train.main(config.replaced(out=str(copy), resume=True))
  assert ended.value.code == 1
  assert content(copy) == before


@pytest.mark.parametrize("how", damages.DAMAGES)
def test_damage_beside_the_checkpoints_does_not_keep_a_run_from_going_on(
  trainer, copy, whole, how, caplog
):
  train, _, config = trainer
  (copy / "curves.png").write_bytes(b"a picture")
  shutil.rmtree(copy / "checkpoints" / str(STEPS))
  how(next((copy / "tensorboard").iterdir()))
  how(next((copy / "best").glob("*/manifest.json")))
  how(copy / "curves.png")
  how(copy / "config.json")
  again = config.replaced(out=str(copy), resume=True)
  if how is damages.made_a_folder:
    with pytest.raises(train.endings.Ended, match=r"(?s)config\.json: Is a dir.*step 20 .*intact"):
      train.main(again)
    (copy / "config.json").rmdir()
  (row,) = train.main(again)
  assert row.result.count == 500
  assert numbers(copy) == numbers(whole)
  if how in (damages.cut, damages.zeroed):
    assert "is damaged: what the run began with cannot be compared" in caplog.text
  assert json.loads((copy / "config.json").read_text())["depth"] == 3


@pytest.mark.parametrize("change", [{"depth": 4}, {"activation": "gelu"}, {"method": "eoc"}])
def test_another_network_is_refused_unless_forced_and_recorded(trainer, copy, change):
  train, _, config = trainer
  before = content(copy)
  other = config.replaced(out=str(copy), resume=True, **change)
  ((key, value),) = change.items()
  with pytest.raises(train.endings.Ended, match=f"does not fit the run.*{key} {value}, before"):
    train.main(other)
  assert content(copy) == before
  train.main(other.replaced(force=True))  # what runs is the module's own network
  (record,) = json.loads((copy / "config.json").read_text())["changes"]
  assert record == {"step": STEPS, "before": {key: config.flags()[key]}}


def test_one_run_has_one_writer(trainer, copy):
  train, _, config = trainer
  lock = training.FolderLock(copy)
  before = content(copy)
  with pytest.raises(train.endings.Ended, match="is in use by process"):
    train.main(config.replaced(out=str(copy), resume=True))
  assert content(copy) == before
  lock.release()


@pytest.fixture
def disk(tmp_path):
  """A disk of four megabytes, and a function that leaves so many kilobytes of it."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
  try:
    subprocess.run(mounting, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("a small disk cannot be mounted here")
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
@pytest.mark.parametrize("kilobytes", [0, 8, 500, 1200])
def test_a_disk_that_fills_at_every_write(trainer, whole, disk, kilobytes, capfd):
  """A sentence with the path; and with some space, the run goes on as if nothing had been."""
  train, _, config = trainer
  (disk / "fill").write_bytes(bytes(4 * 2**20 - kilobytes * 1024))
  logging.getLogger("absl").setLevel(logging.WARNING)
  with pytest.raises(train.endings.Ended, match="No space left on device") as ended:
    train.main(config.replaced(out=str(disk / "run")))
  assert ended.value.code == 1
  assert str(disk / "run") in str(ended.value)
  assert "Traceback" not in capfd.readouterr().err
  (disk / "fill").unlink()
  train.main(config.replaced(out=str(disk / "run"), resume=True))
  assert_same(disk / "run", whole)
