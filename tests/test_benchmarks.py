"""The command that runs all benchmarks: it knows them all, and no missed budget is lost."""

import importlib
import json
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"

FAKE = """
import json, pathlib, sys
print("speed: 3, budget 2: MISS" if sys.argv[1:] == ["--quick"] else "speed: 1, budget 2: pass")
print("a line that judges nothing")
results = pathlib.Path(__file__).parent / "results"
results.mkdir(exist_ok=True)
(results / "fake.json").write_text(json.dumps({"rows": [3]}))
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
  assert [text.rpartition(": ")[2] for text in collected["fake"]["judged"]] == [line]
  assert collected["fake"]["results"] == {"rows": [3]}
  assert f"{int(line == 'MISS')} missed" in capsys.readouterr().out


def test_a_script_that_fails_counts_as_missed(run, monkeypatch, tmp_path, capsys):
  (tmp_path / "fake.py").write_text("raise SystemExit(3)")
  monkeypatch.setattr(run, "FOLDER", tmp_path)
  monkeypatch.setattr(run, "SCRIPTS", {"fake": []})
  monkeypatch.setattr(sys, "argv", ["run.py"])
  run.main()
  assert "1 missed" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "said"), [(2.0, "pass"), (2.1, "MISS"), (float("nan"), "MISS")])
def test_verdict(monkeypatch, capsys, value, said):
  monkeypatch.syspath_prepend(str(FOLDER))
  record = importlib.import_module("record")
  assert record.verdict("ratio", value, 2.0)["met"] == (said == "pass")
  assert capsys.readouterr().out.strip().endswith(said)
