"""How far an activation reaches, for errors that say what can be asked of it."""

import dataclasses
import math
from collections.abc import Callable

from tatnet.shaping.methods import LocalConditions


class NoSolutionError(ValueError):
  """The activation cannot meet the conditions.

  Attributes:
    nearest: the nearest value, within about 1 %, of the quantity that the method
      sets (C'(1) for DKS, C''(1) for TAT) at which there is a solution; None if
      none was found.
  """

  def __init__(self, nearest: float | None):
    super().__init__("no solution")
    self.nearest = nearest


def nearest_reachable(
  solvable: Callable[[LocalConditions], bool], conditions: LocalConditions
) -> float | None:
  """Walks outwards from a target in factors of 2, then halves the last step.

  Args:
    solvable: whether there is a solution for some conditions.
    conditions: those for which there is none.
  """

  def scaled(scale):
    if conditions.c_curvature is None:
      return dataclasses.replace(conditions, c_slope=1 + (conditions.c_slope - 1) * scale)
    return dataclasses.replace(conditions, c_curvature=conditions.c_curvature * scale)

  for exponent in range(1, 13):
    for direction in (-1, 1):
      reached, missed = 2.0 ** (direction * exponent), 2.0 ** (direction * (exponent - 1))
      if not solvable(scaled(reached)):
        continue
      while abs(reached / missed - 1) > 0.01:
        middle = math.sqrt(reached * missed)
        if solvable(scaled(middle)):
          reached = middle
        else:
          missed = middle
      nearest = scaled(reached)
      return nearest.c_slope if conditions.c_curvature is None else nearest.c_curvature
  return None
