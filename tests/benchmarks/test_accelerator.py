"""The kit for accelerators, at a toy size: every part writes its rows and its table."""

import json
import sys

import accelerator
import pytest


def test_all_parts_at_a_toy_size(monkeypatch, tmp_path):
  out = tmp_path / "kit.json"
  monkeypatch.setattr(sys, "argv", ["accelerator.py", "--toy", "--out", str(out)])
  accelerator.main()
  found = json.loads(out.read_text())
  shaped, baseline = found["rows"]["steps"]
  assert (shaped["network"], baseline["network"]) == ("mlp", "mlp-bn")
  assert shaped["step_ms"] > 0
  assert 0 < shaped["memory_gb"] <= baseline["memory_gb"]  # it has fewer layers
  timed = [row["step"] for row in found["rows"]["curvature"] if "step" in row]
  assert timed == ["sgd", "kfac", "kfac, factors every 10", "adaptive-kfac"]
  (trained,) = found["rows"]["cifar10"]
  assert trained["steps"] == 30
  assert 0 <= trained["accuracy"] <= 1
  tables = out.with_suffix(".md").read_text()
  assert found["machine"]["device"] in tables
  assert "| mlp, batch 4, bfloat16 |" in tables


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path):
  out = tmp_path / "kit.json"

  def out_of_memory(*_):
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

  monkeypatch.setattr(accelerator.steps, "measure", out_of_memory)
  monkeypatch.setattr(accelerator.curvature, "measure", lambda toy: [{"step": "sgd"}])
  monkeypatch.setattr(accelerator.curvature, "table", lambda rows: f"{len(rows)} row")
  arguments = ["--toy", "--out", str(out), "--only", "steps", "curvature"]
  monkeypatch.setattr(sys, "argv", ["accelerator.py", *arguments])
  with pytest.raises(SystemExit) as ended:
    accelerator.main()
  assert ended.value.code == 1
  rows = json.loads(out.read_text())["rows"]
  assert "out of memory" in rows["steps"]["failed"]
  assert rows["curvature"] == [{"step": "sgd"}]
  assert "1 row" in out.with_suffix(".md").read_text()
