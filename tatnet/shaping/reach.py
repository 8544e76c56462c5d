"""How far an activation reaches, for errors that say what can be asked of it."""

import dataclasses
import math
from collections.abc import Callable

from tatnet.layer.activations import Activation
from tatnet.shaping.conditions import LocalConditions
from tatnet.shaping.method import Method


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


@dataclasses.dataclass(frozen=True)
class Target:
  """What a method was asked for, and what that asks of each layer.

  Attributes:
    knob: the method's field.
    value: its value.
    symbol: the quantity of a layer that it sets.
    wanted: the value of that.
  """

  knob: str
  value: float
  symbol: str
  wanted: float


def out_of_reach(
  method: Method,
  activation: Activation,
  *,
  target: Target,
  given: str,
  nearest: float | None,
  reached: Callable[[float], float],
) -> str:
  """Message for a local target that the activation cannot meet, in the method's own terms.

  Args:
    method: the method.
    activation: the activation.
    target: what is out of reach.
    given: the conditions that are met besides.
    nearest: the nearest value within reach, None if there is none.
    reached: the value of the method's field that this would allow.
  """
  if nearest is None:
    return (
      f"{activation.name} cannot be transformed by {type(method).__name__}: no input scale and"
      f" shift were found that give it {given}. Choose another activation."
    )
  side, change = ("at most", "deeper") if nearest < target.wanted else ("at least", "shallower")
  return (
    f"{target.knob}={target.value:g} is out of reach for {activation.name} in this network: it asks"
    f" each layer for {target.symbol} = {_spelled(target.wanted)}, and with {given} the activation"
    f" reaches {side} about {_spelled(nearest)}. Choose {target.knob} {side}"
    f" {_spelled(reached(nearest))}, a {change} network, or another activation."
  )


def _spelled(value: float) -> str:
  """Enough digits to tell a slope from 1."""
  return f"1 + {value - 1:.3g}" if 0 < value - 1 < 1e-3 else f"{value:.6g}"
