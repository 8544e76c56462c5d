"""The trainer as its users run it: whole, killed and resumed, misused."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tatnet.training import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
  *("digits", "--depth", "13", "--width", "32", "--steps", "12", "--evaluate-every", "6"),
  *("--checkpoint-every", "4", "--contrast", "--optimizer", "kfac", "--burn-in", "2"),
  *("--warmup-steps", "0", "--eta", "0.8", "--dropout-rate", "0.1"),
)


def command(folder, *options):
  return [sys.executable, str(ROOT / "examples/train.py"), *SMALL, "--out", str(folder), *options]


def train(folder, *options):
  return subprocess.run(command(folder, *options), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  result = train(folder)
  assert result.returncode == 0, result.stderr
  return folder, result


def test_a_run_leaves_what_it_promises(whole):
  folder, result = whole
  assert "test accuracy" in result.stdout
  assert (folder / "curves.png").stat().st_size > 1000
  config = json.loads((folder / "config.json").read_text())
  assert config["depth"] == 13
  assert config["solved_activation"]["name"] == "leaky_relu"
  rows = read_metrics(folder)
  assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
  assert [row["step"] for row in rows if "test_accuracy" in row] == [6, 12]


def test_killed_and_resumed_it_ends_the_same(whole, tmp_path):
  folder = tmp_path / "run"
  process = subprocess.Popen(
    command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
  )
  # Killed at whatever step it has come to once the fifth is on the disk.
  while process.poll() is None and len(read_metrics(folder)) < 5:
    os.sched_yield()
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  result = train(folder, "--resume")
  assert result.returncode == 0, result.stderr

  def numbers(path):
    return [
      {key: value for key, value in row.items() if key != "images_per_second"}
      for row in read_metrics(path)
    ]

  assert numbers(folder) == numbers(whole[0])  # every loss and norm to the last bit


def test_a_folder_is_not_overwritten(whole):
  result = train(whole[0])
  assert result.returncode == 1
  assert "holds a run already" in result.stderr


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  result = train(
    tmp_path / "run", "--optimizer", "sgd", "--learning-rate", "1e30", "--schedule", "constant"
  )
  assert result.returncode == 1
  assert "at step" in result.stderr
  assert "learning rate 1e+30" in result.stderr


def test_data_that_is_not_prepared(tmp_path):
  line = [sys.executable, str(ROOT / "examples/train.py"), "cifar10", "--data-dir", str(tmp_path)]
  result = subprocess.run(
    [*line, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False
  )
  assert result.returncode != 0
  assert "download_and_prepare" in result.stderr
