"""The command that runs all benchmarks: it knows them all, and no missed budget is lost."""

import importlib
import json
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"

FAKE = f"""
import sys
sys.path.append({str(FOLDER)!r})
import pathlib, record
verdict = record.verdict("speed", 3 if sys.argv[1:] == ["--quick"] else 1, 2)
record.write(pathlib.Path(__file__).parent / "results" / "fake.json", [3], [verdict])
"""


@pytest.fixture
def run(monkeypatch):
  monkeypatch.syspath_prepend(str(FOLDER))
  yield importlib.import_module("run")
  sys.modules.pop("run")


def test_every_script_with_a_budget_is_run(run):
  judging = {path.stem for path in FOLDER.glob("*.py") if "BUDGET" in path.read_text()}
  assert judging
  assert judging <= set(run.SCRIPTS)


@pytest.mark.parametrize(("flags", "line"), [([], "pass"), (["--quick"], "MISS")])
def test_verdicts_and_results_are_collected(run, monkeypatch, tmp_path, capsys, flags, line):
  (tmp_path / "fake.py").write_text(FAKE)
  monkeypatch.setattr(run, "FOLDER", tmp_path)
  monkeypatch.setattr(run, "SCRIPTS", {"fake": []})
  monkeypatch.setattr(sys, "argv", ["run.py", *flags])
  run.main()
  collected = json.loads((tmp_path / "results" / "all.json").read_text())
  assert collected["fake"]["rows"] == [3]
  out = capsys.readouterr().out
  assert f"budget 2: {line}" in out
  assert f"{int(line == 'MISS')} missed" in out


def test_a_script_that_fails_counts_as_missed(run, monkeypatch, tmp_path, capsys):
  (tmp_path / "fake.py").write_text("raise SystemExit(3)")
  monkeypatch.setattr(run, "FOLDER", tmp_path)
  monkeypatch.setattr(run, "SCRIPTS", {"fake": []})
  monkeypatch.setattr(sys, "argv", ["run.py"])
  run.main()
  assert "1 missed" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("value", "at_least", "said"),
  [
    (2.0, False, "pass"),
    (2.1, False, "MISS"),
    (float("nan"), False, "MISS"),
    (2.0, True, "pass"),
    (1.9, True, "MISS"),
    (float("nan"), True, "MISS"),
  ],
)
def test_verdict(monkeypatch, capsys, value, at_least, said):
  monkeypatch.syspath_prepend(str(FOLDER))
  record = importlib.import_module("record")
  assert record.verdict("ratio", value, 2.0, at_least=at_least)["met"] == (said == "pass")
  assert capsys.readouterr().out.strip().endswith(said)
