"""Checks of the numbers that optimisers are made with."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Of numbers that an optimiser computes with in float32, products of two included.
_SMALLEST, _LARGEST = 1e-18, 1e18
_MOST = 10**9  # steps: what int32 counts


class Rule(NamedTuple):
  """What a setting may be.

  Attributes:
    holds: of the number, as a Python number.
    expected: the same in words.
    scheduled: whether it may be a function of the number of updates.
    optional: whether it may be None.
  """

  holds: Callable[[float], bool]
  expected: str
  scheduled: bool = False
  optional: bool = False


POSITIVE = Rule(lambda x: x > 0, "a number above 0")
POSITIVE_OR_SCHEDULE = Rule(POSITIVE.holds, "a number above 0, or a schedule", scheduled=True)
POSITIVE_OR_NONE = Rule(POSITIVE.holds, "a number above 0, or None", optional=True)
FOUND_IF_NONE = Rule(POSITIVE.holds, "a number above 0, a schedule, or None", True, True)
CONSTRAINT = Rule(POSITIVE.holds, "a number above 0, or None, or a schedule", True, True)
RATE = Rule(lambda x: x >= 0, "a number of at least 0, or a schedule", scheduled=True)
NOT_NEGATIVE = Rule(lambda x: x >= 0, "a number of at least 0")
BELOW_ONE = Rule(lambda x: 0 <= x < 1, "a number in [0, 1)")
MOMENTUM = Rule(BELOW_ONE.holds, "a number in [0, 1), or None", optional=True)
COUNT = Rule(lambda x: 0 <= x <= _MOST and x % 1 == 0, "an integer of at least 0, at most 1e9")
INTERVAL = Rule(lambda x: 1 <= x <= _MOST and x % 1 == 0, "an integer of at least 1, at most 1e9")


def check_settings(rules: dict[str, tuple[Any, Rule]]) -> None:
  """Raises unless each value is as its rule says.

  Arrays of one number are numbers: hyperparameters that are injected are. While a program
  is traced they have no values, and only their kind is checked, as of schedules.

  Args:
    rules: by name the value, and what it may be.

  Raises:
    TypeError: something that is no number.
    ValueError: a number out of range, or beyond what float32 holds.
  """
  for name, (value, rule) in rules.items():
    if (value is None and rule.optional) or (callable(value) and rule.scheduled):
      continue
    if not _is_number(value):
      raise TypeError(f"{name}={shown(value)}; expected {rule.expected}.")
    try:
      number = float(value)
    except jax.errors.ConcretizationTypeError:  # a value of a traced program
      continue
    except OverflowError:
      number = math.inf if value > 0 else -math.inf
    if not rule.holds(number):
      raise ValueError(f"{name}={shown(value)}; expected {rule.expected}.")
    if number and not _SMALLEST <= abs(number) <= _LARGEST:
      raise ValueError(
        f"{name}={shown(value)}; expected {rule.expected}, in size between {_SMALLEST:g} and"
        f" {_LARGEST:g}: optimisers compute in float32."
      )


def _is_number(value: Any) -> bool:
  if isinstance(value, jax.Array | np.ndarray):
    kinds = jnp.floating, jnp.integer
    return value.shape == () and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
  # Those that JAX computes with: no fractions, no truth values.
  return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def shown(value: Any) -> str:
  """The value for a message, cut where it is long."""
  try:
    text = repr(value)
  except ValueError:  # Python prints no integer of more than 4300 digits
    return f"a {type(value).__name__} too long to print"
  return text if len(text) <= 100 else f"{text[:100]}..."


def check_mesh(mesh: Any) -> None:
  """Raises TypeError unless it is a mesh or None."""
  if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
    raise TypeError(f"mesh={shown(mesh)}; expected what jax.make_mesh makes, or None.")


def value_of(number: optax.ScalarOrSchedule, count: jax.Array) -> jax.Array | float:
  """A number, or that of a schedule after as many updates."""
  return number(count) if callable(number) else number


def whole(number: jax.Array | float) -> jax.Array:
  """A number of updates; one that was injected as a hyperparameter has the parameters' dtype."""
  return jnp.round(jnp.asarray(number, jnp.float32)).astype(jnp.int32)
