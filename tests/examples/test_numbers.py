"""A run's numbers are checked before it begins."""

import dataclasses
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def config(monkeypatch):
  """That of the digits."""
  monkeypatch.syspath_prepend(str(EXAMPLES))
  import configs

  return configs.DIGITS


COUNTS = ("steps", "batch_size", "evaluate_every", "checkpoint_every", "seed")
PARTS = ("dropout_rate", "label_smoothing")
MAY_BE_NONE = ("stop_after", "image_size", "workers", "depth", "width", "average_decay",
               "num_processes", "process_id")  # fmt: skip
every_number = pytest.mark.parametrize("field", [*COUNTS, *PARTS, *MAY_BE_NONE])


def refused(error, config, field, value):
  with pytest.raises(error) as caught:
    dataclasses.replace(config, **{field: value}).resolved()
  assert type(caught.value) is error
  assert field in str(caught.value).replace("-", "_")
  assert "; expected a" in str(caught.value)


@every_number
def test_what_is_no_number(config, field):
  for value in ("1", True, 1j, [1], {}, np.ones(1), np.bool_(True), object()):
    refused(TypeError, config, field, value)
  if field not in MAY_BE_NONE:
    refused(TypeError, config, field, None)


@every_number
def test_what_no_run_can_have(config, field):
  for value in (math.nan, math.inf, -1, 10**400, -(10**5000), 1e308):
    refused(ValueError, config, field, value)


def test_none_is_for_what_has_a_value_of_its_own(config):
  assert dataclasses.replace(config, **dict.fromkeys(MAY_BE_NONE)).resolved()


@pytest.mark.parametrize("rate", ["fast", "nan", "-1", "inf", "1e400"])
def test_a_contrast_with_a_learning_rate_that_is_none(config, rate):
  with pytest.raises(ValueError, match=r"; expected a number"):
    config.contrasted(f"mlp:sgd:{rate}")


def test_the_command_line_says_it_in_a_sentence(tmp_path):
  script, out = str(EXAMPLES / "train.py"), str(tmp_path / "run")
  ended = subprocess.run(
    [sys.executable, script, "digits", "--damping", "nan", "--out", out],
    env={"PYTHONPATH": str(EXAMPLES.parent), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert ended.returncode == 1
  assert ended.stderr == "damping=nan; expected a number above 0.\n"
