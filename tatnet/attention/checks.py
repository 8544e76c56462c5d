"""Checks of what describes attention, with messages in the library's form."""

import math
import numbers
from typing import Any

from tatnet.layer.fields import as_float, is_number, shown


def as_cosine(name: str, field: str, value: Any) -> float:
  """A cosine that two tokens may have, as a float.

  Raises:
    TypeError: it is no number.
    ValueError: it is outside of [0, 1).
  """
  if not is_number(value):
    raise TypeError(f"{name} got {field}={shown(value)}; expected a number in [0, 1).")
  number = as_float(value)
  if not 0 <= number < 1:
    raise ValueError(
      f"{name} got {field}={shown(value)}; expected a cosine in [0, 1). Tokens without anything in"
      " common have 0; at 1 they are all the same, and no attention tells them apart."
    )
  return number


def as_decay(name: str, field: str, value: Any) -> float:
  """A decay of an exponential kernel as a float; infinity stands for the identity.

  Raises:
    TypeError: it is no number.
    ValueError: it is not above 0.
  """
  if not is_number(value):
    raise TypeError(f"{name} got {field}={shown(value)}; expected a number above 0.")
  number = as_float(value)
  if not number > 0:
    raise ValueError(
      f"{name} got {field}={shown(value)}; expected a decay above 0 (infinity for tokens without"
      " anything in common): at 0 all tokens are the same."
    )
  return number


def check_flag(name: str, field: str, value: Any) -> None:
  """Raises TypeError unless it is True or False."""
  if not isinstance(value, bool):
    raise TypeError(f"{name} got {field}={shown(value)}; expected True or False.")


def check_count(name: str, field: str, value: Any, least: int = 1) -> int:
  """A number of things.

  Raises:
    TypeError: it is no integer.
    ValueError: there are too few.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f"{name} got {field}={shown(value)}; expected an integer of at least {least}.")
  if value < least:
    raise ValueError(f"{name} got {field}={shown(value)}; expected an integer of at least {least}.")
  return int(value)


def check_tokens(tokens: Any) -> int:
  """The length of a sequence; raises as `check_count` does."""
  return check_count("attention", "tokens", tokens)


def check_finite(name: str, field: str, value: Any, low: float = -math.inf) -> float:
  """A number as a float.

  Raises:
    TypeError: it is no number.
    ValueError: it is not finite, or below `low`.
  """
  if not is_number(value):
    raise TypeError(f"{name} got {field}={shown(value)}; expected a number.")
  number = as_float(value)
  if not (math.isfinite(number) and number >= low):
    least = f" of at least {low:g}" if low > -math.inf else ""
    raise ValueError(f"{name} got {field}={shown(value)}; expected a finite number{least}.")
  return number
