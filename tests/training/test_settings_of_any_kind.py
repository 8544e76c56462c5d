"""The trainer's optimisers: a setting of another kind, or out of range, is refused by name."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from tatnet import training

COUNTS = ("warmup_steps", "factors_every", "inverse_every", "burn_in")
NUMBERS = ("learning_rate", "drop_factor", "momentum", "weight_decay", "damping",
           "norm_constraint", "trust_coefficient", *COUNTS)  # fmt: skip
every_number = pytest.mark.parametrize("field", NUMBERS)


def refused(error, call, start):
  with pytest.raises(error) as caught:
    call()
  assert type(caught.value) is error
  assert str(caught.value).startswith(start)
  assert "; expected " in str(caught.value)
  assert len(str(caught.value)) < 300


@every_number
def test_what_is_no_number(field):
  values = [
    "0.1",
    b"1",
    True,
    np.bool_(False),
    1j,
    [0.1],
    (),
    {},
    np.ones(1),
    jnp.ones(2),
    object(),
  ]
  for value in (*values, lambda count: 0.1, *([] if field == "norm_constraint" else [None])):
    refused(TypeError, lambda value=value: training.OptimizerSettings(**{field: value}), field)


@every_number
def test_what_is_out_of_range(field):
  values = [math.nan, math.inf, -math.inf, -1, 10**400, 10**5000, 1e308, 1e-320, np.float32("inf")]
  for value in values:
    refused(ValueError, lambda value=value: training.OptimizerSettings(**{field: value}), field)


@pytest.mark.parametrize("field", COUNTS)
def test_steps_are_whole(field):
  refused(ValueError, lambda: training.OptimizerSettings(**{field: 1.5}), field)


@pytest.mark.parametrize("field", ["name", "schedule", "nesterov", "drops"])
def test_what_is_no_number_and_of_another_kind(field):
  for value in (None, 1, 1j, {}, np.ones(2), b"sgd", object()):
    refused(TypeError, lambda value=value: training.OptimizerSettings(**{field: value}), field)


@pytest.mark.parametrize(
  ("drop", "error"),
  [("0.5", TypeError), (True, TypeError), (None, TypeError), (1j, TypeError), ([0.5], TypeError),
   (math.nan, ValueError), (math.inf, ValueError), (-0.5, ValueError), (10**400, ValueError)],
)  # fmt: skip
def test_drops_that_are_no_parts_of_a_run(drop, error):
  refused(error, lambda: training.OptimizerSettings(drops=(0.5, drop)), "drops[1]=")


@pytest.mark.parametrize("name", ["", "x" * 10**6])
def test_an_empty_or_a_huge_name(name):
  settings = training.OptimizerSettings(name)
  refused(ValueError, lambda: training.make_optimizer(settings, 10), "optimizer ")
  settings = training.OptimizerSettings(schedule=name)
  refused(ValueError, lambda: training.make_optimizer(settings, 10), "schedule=")


@pytest.mark.parametrize(
  ("steps", "error"),
  [("10", TypeError), (None, TypeError), (True, TypeError), ([10], TypeError),
   (0, ValueError), (10.5, ValueError), (math.inf, ValueError), (10**400, ValueError)],
)  # fmt: skip
def test_lengths_that_no_run_has(steps, error):
  settings = training.OptimizerSettings("sgd")
  refused(error, lambda: training.make_optimizer(settings, steps), "steps=")
