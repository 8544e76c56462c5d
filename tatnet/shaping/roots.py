"""A bracketing root finder for the scalar targets.

SciPy's would do, but importing it takes most of the time that a whole solve may
take in a fresh process.
"""

import math
from collections.abc import Callable

_HIGHEST = 1e9


def root_above(f: Callable[[float], float], low: float, high: float) -> float | None:
  """The root of an increasing f above a point where it is negative; None if there is none.

  Args:
    f: the function.
    low: the point.
    high: a first guess of a point behind the root, which doubles until it is one.
  """
  if not f(low) < 0:
    return None
  while not f(high) >= 0:
    if not high < _HIGHEST:
      return None
    high *= 2
  return bracketed_root(f, low, high)


def bracketed_root(f: Callable[[float], float], low: float, high: float) -> float:
  """The root of a continuous f with a sign change between low and high.

  Regula falsi in the Illinois variant: an end that is kept twice in a row counts
  half. Every fourth step halves the bracket if it has not shrunk to a quarter by
  itself. Ends when no number lies between the two ends.

  Args:
    f: the function.
    low: one end.
    high: the other end, with f of the other sign.

  Returns:
    The point with the smallest absolute value of f.

  Raises:
    ValueError: f has the same sign at both ends, or is NaN there.
  """
  f_low, f_high = f(low), f(high)
  best, size = (low, abs(f_low)) if abs(f_low) <= abs(f_high) else (high, abs(f_high))
  if size == 0:
    return best
  if math.isnan(f_low + f_high) or (f_low > 0) == (f_high > 0):
    raise ValueError(f"no sign change: f({low}) = {f_low}, f({high}) = {f_high}")
  # Halving at an end that stays acts on these, not on the values themselves.
  pull_low, pull_high, kept = f_low, f_high, 0
  width = abs(high - low)
  for step in range(1, 400):
    share = pull_low / (pull_low - pull_high)
    middle = low + share * (high - low)
    if step % 4 == 0:
      if abs(high - low) > width / 4:
        middle = low + (high - low) / 2
      width = abs(high - low)
    # Close to the root one end hardly moves: a step just beyond brings the other in.
    for end, other in ((low, high), (high, low)):
      if abs(middle - end) < 4 * math.ulp(end):
        middle = end + math.copysign(8 * math.ulp(end), other - end)
    if not min(low, high) < middle < max(low, high):
      middle = low + (high - low) / 2
      if middle in (low, high):
        break
    f_middle = f(middle)
    if abs(f_middle) < size:
      best, size = middle, abs(f_middle)
    if f_middle == 0:
      break
    if (f_middle > 0) == (f_low > 0):
      low, pull_low = middle, f_middle
      pull_high = pull_high / 2 if kept == 1 else pull_high
      kept = 1
    else:
      high, pull_high = middle, f_middle
      pull_low = pull_low / 2 if kept == -1 else pull_low
      kept = -1
  return best
