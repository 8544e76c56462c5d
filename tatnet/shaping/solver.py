"""Input scale, input shift and output shift that meet a method's conditions.

1. Starts: every cell of the activation's `landscape` where both residuals
   change sign, the output shift having been eliminated.
2. Newton's method in (alpha, beta, mean) with the exact Jacobian.
3. Every solution is checked on a quadrature twice as fine; where the two
   disagree the panels are made smaller and the solution polished again.
4. Solutions whose layer has a gain of 2 or more, ``alpha gamma max|phi'| >= 2``,
   sit where phi is nearly flat. TAT rejects them (TAT paper's code: their Q maps
   are unstable); DKS takes one only where there is no other, up to a gain of 50.
5. Of those that remain, the one with the most stable Q map: the smallest largest
   ``|log(Q(q) / q)|`` over q = 1/4, 1/2, 2, 4. All have Q(1) = Q'(1) = 1; what
   differs is how far a deviation of q, which every network of finite width has,
   grows from there.
"""

import dataclasses
import functools
import math

import numpy as np

from tatnet.layer import quadrature
from tatnet.layer.activations import Activation, is_library
from tatnet.layer.moments import LocalQuantities, local_quantities
from tatnet.layer.record import TransformedActivation
from tatnet.shaping.conditions import LocalConditions
from tatnet.shaping.landscape import (
  Landscape,
  cells_with_root,
  common_root,
  corners,
  interpolate,
  landscapes,
)
from tatnet.shaping.reach import NoSolutionError, nearest_reachable

_TOLERANCE = 1e-11  # in float64; of a function that computes in 32 bits, what its rounding allows
_PANELS = (24, 96, 384)
_HIGHEST_GAIN, _HIGHEST_FLAT_GAIN = 2.0, 50.0
_LEAST_BEND = 1e-10
_PROBES = (0.25, 0.5, 2.0, 4.0)
_PERIOD = {"sin": 2 * math.pi, "cos": 2 * math.pi}


def _period(activation: Activation) -> float | None:
  return _PERIOD.get(activation.name) if is_library(activation) else None


@dataclasses.dataclass(frozen=True)
class _Solution:
  alpha: float
  beta: float
  delta: float
  gamma: float

  def record(self, activation: Activation) -> TransformedActivation:
    period = _period(activation)
    return TransformedActivation(
      activation.name,
      base=activation,
      input_scale=self.alpha,
      input_shift=self.beta % period if period else self.beta,
      output_shift=self.delta,
      output_scale=self.gamma,
    )


def solve(activation: Activation, conditions: LocalConditions) -> TransformedActivation:
  """The transformed activation that meets all conditions that are not None.

  Args:
    activation: the base activation. TAT's conditions need one without slope jumps.
    conditions: a target for C'(1), for Q'(1), and for either C(0) (DKS) or
      C''(1) (TAT).

  Returns:
    A record whose local maps meet the conditions within 1e-10.

  Raises:
    NoSolutionError: there is no solution, or none that is acceptable.
  """
  best = _best_solution(activation, conditions)
  if best is None:
    solvable = functools.partial(_best_solution, activation)
    raise NoSolutionError(nearest_reachable(lambda c: solvable(c) is not None, conditions))
  if not _is_dks(conditions) and best.alpha * best.gamma >= _HIGHEST_GAIN:
    # phi is nowhere steep (sigmoid). The mirror image has the same maps and also
    # passes the rule as the TAT paper's code states it, without max|phi'|.
    best = dataclasses.replace(best, alpha=-best.alpha)
  return best.record(activation)


def _is_dks(conditions: LocalConditions) -> bool:
  return conditions.c_curvature is None


def _best_solution(activation: Activation, conditions: LocalConditions) -> _Solution | None:
  highest = _HIGHEST_FLAT_GAIN if _is_dks(conditions) else _HIGHEST_GAIN
  problems = [
    _Problem(grid, conditions, sign)
    for grid in landscapes(activation)
    for sign in ((1.0,) if _is_dks(conditions) else (1.0, -1.0))
  ]
  starts = [problem.starts(_period(activation), highest) for problem in problems]
  steepest = problems[0].grid.steepest
  solutions = [
    (s.alpha * s.gamma * steepest, s)
    for s in _polish(activation, conditions, np.concatenate(starts))
  ]
  for bound in (_HIGHEST_GAIN, highest):
    allowed = [s for gain, s in solutions if gain < bound]
    if allowed:
      return min(allowed, key=lambda s: _preference(activation, s))
  return None


def _preference(activation: Activation, s: _Solution) -> tuple[float, float, bool]:
  scale = np.sqrt(_PROBES)[:, None]
  kinks = (np.asarray(activation.kinks) - s.beta) / (s.alpha * scale)
  z, w = quadrature.normal_rule(kinks)
  f = s.gamma * (activation.jet(s.alpha * scale * z + s.beta)[0] + s.delta)
  drift = np.max(np.abs(np.log(np.sum(w * f**2, axis=-1) / _PROBES)))
  # Mirror images have the same maps; of those the smaller shift, then the positive.
  return round(float(drift), 6), round(abs(s.beta), 6), s.beta < 0


class _Problem:
  """Residuals of the conditions over a landscape, with the mean eliminated.

  One condition fixes the mean m of f: C(0) = 0 says m = 0; TAT's C'(1) = 1 says
  ``variance + m^2 = alpha^2 slope``, with m of either sign. Attributes are arrays
  over the grid: `mean`, `gain`, and the residuals `first`, of the quantity that
  the method sets, and `second`, of Q'(1).
  """

  def __init__(self, grid: Landscape, conditions: LocalConditions, sign: float):
    a, self.grid = grid.alpha, grid
    with np.errstate(all="ignore"):
      if _is_dks(conditions):
        self.mean, second_moment = np.zeros_like(a), grid.variance
        self.first = a**2 * grid.slope / grid.variance - conditions.c_slope
      else:
        second_moment = a**2 * grid.slope
        self.mean = sign * np.sqrt(np.maximum(second_moment - grid.variance, 0.0))
        self.first = np.log(a**2 * grid.curvature / grid.slope / conditions.c_curvature)
      # Where phi is all but straight, or all but constant, nothing but rounding is left.
      bend = (a**2 * grid.slope - grid.variance) / grid.variance
      unresolved = ~(bend > _LEAST_BEND) | (grid.variance < 1e-24 * grid.mean**2)
      q_slope = a * (grid.mixed + self.mean * grid.cross) / second_moment
      self.second = np.where(unresolved, np.nan, q_slope - conditions.q_slope)
      self.gain = a / np.sqrt(second_moment) * grid.steepest

  def starts(self, period: float | None, highest_gain: float) -> np.ndarray:
    """Where the planes through both residuals vanish in a cell, shape [n, 3].

    Args:
      period: of the activation; shifts within one suffice.
      highest_gain: cells with a higher gain throughout are left out.
    """
    cells = cells_with_root(self.first) & cells_with_root(self.second)
    cells &= corners(self.gain).min(0) < highest_gain
    if period is not None:
      beta = corners(self.grid.beta)
      cells &= (beta.max(0) >= 0) & (beta.min(0) <= period)
    first, second = (corners(residual)[:, cells] for residual in (self.first, self.second))
    s, t = common_root(first, second)
    near = np.maximum(np.abs(s), np.abs(t)) < 2.0
    s, t = np.clip(s[near], -0.5, 0.5), np.clip(t[near], -0.5, 0.5)
    unknowns = (self.grid.alpha, self.grid.beta, self.mean)
    return np.stack([interpolate(s, t, corners(q)[:, cells][:, near]) for q in unknowns], -1)


def _polish(
  activation: Activation, conditions: LocalConditions, points: np.ndarray
) -> list[_Solution]:
  """The distinct solutions that Newton's method reaches from the starts [n, 3].

  Panels are made smaller for those points that twice as many disagree with.
  """
  named = {
    "mean": None if conditions.c0 is None else math.sqrt(conditions.c0),
    "q_slope": conditions.q_slope,
    "c_slope": conditions.c_slope,
    "c_curvature": conditions.c_curvature,
  }
  targets = {name: value for name, value in named.items() if value is not None}
  tolerance, solutions = max(_TOLERANCE, 30 * activation.precision), {}
  for panels in _PANELS:
    points = _newton(activation, targets, points, panels, tolerance)
    if not points.size:
      break
    check = local_quantities(activation, points, 2 * panels)
    right = _residuals(check, targets) < tolerance
    found = np.column_stack([points[:, :2], check.delta, 1 / np.sqrt(check.variance)])[right]
    solutions |= {(round(s[0], 6), round(s[1], 6)): _Solution(*s) for s in found.tolist()}
    points = points[~right]
  return list(solutions.values())


def _newton(
  activation: Activation,
  targets: dict[str, float],
  points: np.ndarray,
  panels: int,
  tolerance: float,
) -> np.ndarray:
  """Newton's method from all points [n, 3] at once; those that converged, [m, 3].

  The starts lie in the cell of their solution, so a limit on the step is all the
  safeguard there is: alpha at most halves or doubles, shifts move by at most 1.
  """
  converged = [points[:0]]
  with np.errstate(all="ignore"):
    for _ in range(20):
      if not points.size:
        break
      now = local_quantities(activation, points, panels)
      done = _residuals(now, targets) < tolerance / 10
      converged.append(points[done])
      jacobian = np.stack([now.gradients[name] for name in targets], axis=-2)
      residual = np.stack([now.values[name] - target for name, target in targets.items()], -1)
      regular = ~done & (np.abs(np.linalg.det(jacobian)) > 1e-300)
      step = np.linalg.solve(jacobian[regular], residual[regular][..., None])[..., 0]
      points = points[regular]
      relative = np.abs(step) / np.stack([points[:, 0] / 2, *np.ones((2, len(points)))], -1)
      points = points - step / np.maximum(1.0, relative.max(-1, keepdims=True))
  return np.concatenate(converged)


def _residuals(quantities: LocalQuantities, targets: dict[str, float]) -> np.ndarray:
  """The largest deviation from a target at each point, shape [n]."""
  return np.max([np.abs(quantities.values[name] - t) for name, t in targets.items()], axis=0)
