"""Checks of the fields of records, and how wrong ones are shown."""

import math
import numbers
from typing import Any

# Layers compute in float32, which holds the squares of numbers up to here (and variances
# are squares of scales); a scale below its inverse makes an activation constant.
LARGEST = 1e18
_LONGEST_NAME = 1000


def shown(value: Any) -> str:
  """The value for a message, cut where it is long."""
  try:
    text = repr(value)
  except ValueError:  # Python prints no integer of more than 4300 digits
    return f"a {type(value).__name__} too long to print"
  return text if len(text) <= 100 else f"{text[:100]}..."


def is_number(value: Any) -> bool:
  """Whether it is a real number; a truth value is none."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def as_float(value: Any) -> float:
  """As a float; infinite where it is too large for one."""
  try:
    return float(value)
  except OverflowError:
    return math.inf if value > 0 else -math.inf


def as_finite(name: str, value: Any) -> float:
  """The value of a field as a float.

  Raises:
    TypeError: something that is no number.
    ValueError: a number that is not finite, or larger than float32 can compute with.
  """
  if not is_number(value):
    raise TypeError(f"{name}={shown(value)}: expected a finite number or None.")
  number = as_float(value)
  if not abs(number) <= LARGEST:
    limit = f" of at most {LARGEST:g} in size" if abs(value) < math.inf else ""
    raise ValueError(f"{name}={shown(value)}: expected a finite number{limit} or None.")
  return number


def check_name(name: Any) -> None:
  """Raises TypeError or ValueError unless it can be the name of an activation."""
  if not isinstance(name, str):
    raise TypeError(f"name={shown(name)}: expected the name of an activation, a string.")
  if not name or len(name) > _LONGEST_NAME:
    raise ValueError(
      f"name={shown(name)}: expected the name of an activation, 1 to {_LONGEST_NAME} characters."
    )
