"""Checks of arguments that the files of this package share."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

RULES = {
  "learning_rate": (lambda x: x > 0, "a number above 0, or a schedule"),
  "rate": (lambda x: x > 0, "a number above 0, or a schedule"),
  "momentum": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
  "weight_decay": (lambda x: x >= 0, "a number of at least 0"),
  "fraction": (lambda x: 0 < x <= 1, "a number in (0, 1]"),
  "warm_up": (lambda x: 0 <= x <= 1, "a number in [0, 1]"),
  "steps": (lambda x: x >= 1 and int(x) == x, "an integer of at least 1"),
  "history": (lambda x: x >= 0 and int(x) == x, "an integer of at least 0"),
}


def check_numbers(function: str, **values: Any) -> None:
  """Raises ValueError for plain numbers out of range; arrays and schedules cannot be checked."""
  for name, value in values.items():
    rule, expected = RULES[name]
    if isinstance(value, numbers.Real) and not rule(value):
      raise ValueError(f"{function} got {name}={value!r}; expected {expected}.")


def learning_rates(function: str, learning_rate: Any, steps: int, **numbers: Any) -> jax.Array:
  """The learning rate of every step, ``[steps]``; the other numbers of the descent are checked too."""
  check_numbers(function, learning_rate=learning_rate, steps=steps, **numbers)
  steps = int(steps)
  if callable(learning_rate):
    return jax.vmap(lambda count: jnp.asarray(learning_rate(count), float))(jnp.arange(steps))
  rates = np.asarray(learning_rate, float)
  if rates.ndim and rates.shape != (steps,):
    raise ValueError(
      f"{function} got learning rates of shape {rates.shape} for {steps} steps; expected a number,"
      f" a schedule, or an array of shape ({steps},)."
    )
  return jnp.broadcast_to(jnp.asarray(rates), [steps])


def at_step(number: optax.ScalarOrSchedule, count: jax.Array):
  """The value of a number or schedule."""
  return number(count) if callable(number) else number
