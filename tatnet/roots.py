"""A bracketing root finder for the scalar targets.

SciPy's would do, but importing it takes most of the time that a whole solve may
take in a fresh process.
"""

import math
from collections.abc import Callable


def bracketed_root(f: Callable[[float], float], low: float, high: float) -> float:
  """The root of a continuous f with a sign change on [low, high].

  Regula falsi with the Illinois weight, and a bisection whenever the bracket
  has not halved in three steps; ends when it cannot shrink any further.

  Args:
    f: the function.
    low: one end.
    high: the other end, with f of the other sign.

  Returns:
    The end with the smaller absolute value of f.

  Raises:
    ValueError: f has the same sign at both ends.
  """
  f_low, f_high = f(low), f(high)
  if f_low == 0:
    return low
  if f_high == 0:
    return high
  if not f_low * f_high < 0:
    raise ValueError(f"no sign change: f({low}) = {f_low}, f({high}) = {f_high}")
  best = min((abs(f_low), low), (abs(f_high), high))
  weight_low, weight_high = f_low, f_high
  width = abs(high - low)
  for step in range(200):
    middle = (low * weight_high - high * weight_low) / (weight_high - weight_low)
    stalled = step % 3 == 2 and abs(high - low) > width / 2
    if stalled or not min(low, high) < middle < max(low, high):
      middle = low + (high - low) / 2
    if step % 3 == 2:
      width = abs(high - low)
    if middle in (low, high):
      break
    f_middle = f(middle)
    best = min(best, (abs(f_middle), middle))
    if f_middle == 0 or math.isclose(low, high, rel_tol=4e-16):
      break
    if f_middle * f_low < 0:
      # The other end is kept a second time: halve its weight (Illinois).
      high, weight_high, weight_low = middle, f_middle, weight_low / 2
    else:
      low, f_low, weight_low, weight_high = middle, f_middle, f_middle, weight_high / 2
  return best[1]
