"""The trainer as its users run it: whole, killed and resumed, on several devices, misused."""

import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from simulated_devices import xla_flags

from tatnet.training import Checkpoints, read_metrics

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = (
  *("digits", "--depth", "3", "--width", "16", "--activation", "tanh", "--method", "dks"),
  *("--steps", "12", "--evaluate-every", "6", "--checkpoint-every", "4", "--contrast"),
  *("--optimizer", "kfac", "--learning-rate", "1e-3", "--damping", "1e-2", "--burn-in", "2"),
  *("--factors-every", "2", "--inverse-every", "3", "--warmup-steps", "0", "--dropout-rate", "0.1"),
)
# Runs the trainer, and sends itself a signal after a given step.
WITH_SIGNAL = """
import os, signal, sys
import loop, runpy
step, name = int(os.environ["STEP"]), os.environ["SIGNAL"]
record = loop.Record.step
def record_and_signal(self, number, metrics):
  record(self, number, metrics)
  if number == step:
    os.kill(os.getpid(), getattr(signal, name))
loop.Record.step = record_and_signal
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Runs of this module share what they compile."""
  cache = tmp_path_factory.mktemp("compiled")
  shared = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
  shared["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  return {**os.environ, **shared, "PYTHONPATH": f"{EXAMPLES.parent}{os.pathsep}{EXAMPLES}"}


def start(environment, *options, code=None, **variables):
  script = str(EXAMPLES / "train.py")
  # The code sees the script as its own name.
  program = [script] if code is None else ["-c", f"import sys; sys.argv[0] = {script!r}\n{code}"]
  return subprocess.Popen(
    [sys.executable, *program, *map(str, options)],
    env={**environment, **variables},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """Its return code, and what it wrote to its two outputs."""
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def train(environment, folder, *options, **settings):
  return finish(start(environment, *SMALL, "--out", folder, *options, **settings))


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
  """An uninterrupted run."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  code, out, err = train(environment, folder)
  assert code == 0, err
  return folder, out


def numbers(folder):
  """Everything that was measured, except how long it took."""
  return [
    {key: value for key, value in row.items() if key != "images_per_second"}
    for row in read_metrics(folder)
  ]


def test_a_run_leaves_what_it_promises(whole):
  folder, out = whole
  assert "test accuracy" in out
  assert str(folder / "curves.png") in out
  assert (folder / "curves.png").stat().st_size > 1000
  assert list((folder / "tensorboard").iterdir())
  config = json.loads((folder / "config.json").read_text())
  assert config["depth"] == 3
  assert config["solved_activation"]["name"] == "tanh"
  rows = read_metrics(folder)
  assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
  assert [row["step"] for row in rows if "test_accuracy" in row] == [6, 12]
  assert Checkpoints(folder / "checkpoints").steps() == [8, 12]
  evaluations = [row for row in rows if "test_accuracy" in row]
  best = max(evaluations, key=lambda row: row["test_accuracy"])  # the first of equals
  assert Checkpoints(folder / "best").steps() == [best["step"]]


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_stopped_killed_and_resumed_it_ends_the_same(whole, environment, tmp_path):
  """Stopped by Ctrl-C, then killed, at random steps: every number to the last bit."""
  folder = tmp_path / "run"
  first = random.SystemRandom().randint(1, 9)
  code, _, err = train(environment, folder, code=WITH_SIGNAL, STEP=str(first), SIGNAL="SIGINT")
  assert code == 75, err  # unlike an error, it is worth going on
  assert "Stopped and saved at step" in err
  assert "A second one ends the run at once" in err
  saved = Checkpoints(folder / "checkpoints").steps()[-1]  # a step or two after the signal
  assert f"Stopped and saved at step {saved}" in err
  assert "train.py digits" in err
  assert "--resume" in err
  assert saved == read_metrics(folder)[-1]["step"]
  second = random.SystemRandom().randint(saved + 1, 12)
  code, _, err = train(
    environment, folder, "--resume", code=WITH_SIGNAL, STEP=str(second), SIGNAL="SIGKILL"
  )
  assert code == -9, err
  code, _, err = train(environment, folder, "--resume")
  assert code == 0, err
  assert numbers(folder) == numbers(whole[0]), (first, saved, second)
  jax.tree.map(np.testing.assert_array_equal, last_state(folder), last_state(whole[0]))


def last_state(folder):
  """Everything in the last checkpoint, as it lies on the disk."""
  import orbax.checkpoint as ocp

  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(folder / "checkpoints" / "12" / "state")


def test_eight_devices_are_as_one(whole, environment, tmp_path):
  code, _, err = train(environment, tmp_path / "run", XLA_FLAGS=xla_flags(devices=8))
  assert code == 0, err
  assert_as_one(tmp_path / "run", whole[0])


def test_eight_devices_go_on_where_one_was_killed(whole, environment, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(whole[0], folder)
  shutil.rmtree(folder / "checkpoints" / "12")
  code, _, err = train(environment, folder, "--resume", XLA_FLAGS=xla_flags(devices=8))
  assert code == 0, err
  assert Checkpoints(folder / "checkpoints").steps() == [8, 12]
  assert_as_one(folder, whole[0])


def test_two_processes_are_as_one(whole, environment, tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  hosts = ("--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id")
  options = (*SMALL, "--out", tmp_path / "run", *hosts)
  # Four programs compile at once on two cores: the quicker compiler, whatever the others use.
  settings = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  processes = [start(environment, *options, number, **settings) for number in (0, 1)]
  results = [finish(process) for process in processes]
  assert [code for code, _, _ in results] == [0, 0], "\n".join(err for _, _, err in results)
  assert "test accuracy" in results[0][1]
  assert "test accuracy" not in results[1][1]  # one writer
  assert_as_one(tmp_path / "run", whole[0])


# Runs the trainer, which finds a full disk after the third step.
WITH_FAILURE = """
import sys
import loop, runpy
record = loop.Record.step
def record_and_fail(self, number, metrics):
  record(self, number, metrics)
  if number == 3:
    raise OSError(28, "No space left on device", "/some/file")
loop.Record.step = record_and_fail
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_the_others(environment, tmp_path, failing):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  hosts = ("--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id")
  options = (*SMALL, "--out", tmp_path / "run", *hosts)
  settings = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  processes = [
    start(
      environment, *options, number, code=WITH_FAILURE if number == failing else None, **settings
    )
    for number in (0, 1)
  ]
  results = [finish(process) for process in processes]
  assert [code for code, _, _ in results] == [1, 1], "\n".join(err for _, _, err in results)
  for _, _, err in results:
    assert "/some/file: No space left on device" in err
    assert "Traceback" not in err
  assert f"Process {failing} has ended the run: /some/file" in results[1 - failing][2]


def assert_as_one(folder, other):
  """Sums in another order: the same up to rounding, which training magnifies."""
  for row, expected in zip(numbers(folder), numbers(other), strict=True):
    assert row.keys() == expected.keys()
    for name in row.keys() - {"accuracy", "test_accuracy"}:
      np.testing.assert_allclose(row[name], expected[name], rtol=2e-3, err_msg=name)


def test_a_folder_is_not_overwritten(whole, environment):
  code, _, err = train(environment, whole[0])
  assert code == 1
  assert "holds a run already" in err


def test_runs_in_one_figure(whole, environment, tmp_path):
  picture = tmp_path / "both.png"
  code, out, err = finish(start(environment, "--plot", whole[0], whole[0], "--out", picture))
  assert code == 0, err
  assert str(picture) in out
  assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_field_is_in_the_help(environment):
  code, out, _ = finish(start(environment, "cifar10", "--help"))
  assert code == 0
  for flag in ("--eta", "--optimizer", "--shortcut-weight", "--resume", "--coordinator"):
    assert flag in out
