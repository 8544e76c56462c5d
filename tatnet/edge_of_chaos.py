"""Edge of chaos for smooth activations: sizes of weights and biases.

With weights of variance sigma_w^2 per input and biases of variance sigma_b^2 a
layer maps q to ``Q(q) = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2`` and a pair of
equal inputs apart by the slope ``sigma_w^2 E[phi'(sqrt(q) z)^2]``. At the edge of
chaos the slope is 1 at the fixed point of Q. Eliminating sigma_w leaves one
equation in q, ``E[phi^2] / E[phi'^2] + sigma_b^2 = q``.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np

from tatnet import quadrature
from tatnet.activations import Activation
from tatnet.methods import EOC
from tatnet.roots import bracketed_root
from tatnet.transformed import TransformedActivation, as_transformed

_GRID = np.geomspace(1e-6, 1e4, 121)


def solve(activation: Activation, method: EOC) -> TransformedActivation:
  """The activation with its weight scale, bias scale and fixed point.

  Where there are several fixed points it takes the one with the most stable Q
  map, that is with the smallest slope |Q'(q)|. Activations that grow like a
  rectifier (gelu, swish, mish) have slopes a little above 1 there: q drifts away
  from the fixed point, slowly.

  Raises:
    ValueError: there is no edge of chaos at this sigma_b, or only at q = 0.
  """

  def excess(q):
    z, w = as_transformed(activation).maps.rule(q)
    f, f1, _, _ = activation.jet(math.sqrt(q) * z)
    return float((w @ f**2) / (w @ f1**2)) + method.sigma_b**2 - q

  values = _ratio_on_grid(activation) + method.sigma_b**2 - _GRID
  # Relative to q, so that rounding at the ends of the grid does not count.
  clear = np.flatnonzero(np.isfinite(values) & (np.abs(values) > 1e-9 * _GRID))
  fixed_points = []
  for i, j in itertools.pairwise(clear):
    low, high = _GRID[i], _GRID[j]
    if j - i <= 2 and excess(low) * excess(high) < 0:
      fixed_points.append(bracketed_root(excess, low, high))
  if not fixed_points:
    raise ValueError(_no_edge(activation, method))
  candidates = [_record(activation, method, q) for q in fixed_points]
  return min(candidates, key=lambda c: abs(c.maps.q_slope(c.operating_q)))


@functools.lru_cache(maxsize=64)
def _ratio_on_grid(activation: Activation) -> np.ndarray:
  return _ratio(activation, _GRID)


def _ratio(activation: Activation, q: np.ndarray) -> np.ndarray:
  """E[phi^2] / E[phi'^2] at every q, to find where the signs change."""
  scale = np.sqrt(q)[:, None]
  z, w = quadrature.normal_rule(np.asarray(activation.kinks) / scale, panels=24)
  with np.errstate(all="ignore"):
    f, f1, _, _ = activation.jet(scale * z)
    return np.einsum("pn,pn->p", w, f * f) / np.einsum("pn,pn->p", w, f1 * f1)


def _record(activation: Activation, method: EOC, q: float) -> TransformedActivation:
  base = as_transformed(activation)
  return dataclasses.replace(
    base,
    weight_scale=1 / math.sqrt(base.maps.kernel(1, 1.0, q, q)),
    bias_scale=method.sigma_b,
    operating_q=q,
  )


def _no_edge(activation: Activation, method: EOC) -> str:
  if method.sigma_b == 0:
    return (
      f"EOC got sigma_b=0 for {activation.name}: without biases its edge of chaos lies at q = 0,"
      " where the signal vanishes, or nowhere. Expected sigma_b above 0, such as EOC(0.2); TAT and"
      " DKS need no edge of chaos."
    )
  return (
    f"{activation.name} has no edge of chaos at sigma_b={method.sigma_b}: no fixed point of its Q"
    f" map between {_GRID[0]:g} and {_GRID[-1]:g} has a C map of slope 1. Choose another sigma_b,"
    " or use TAT or DKS, which shape the activation instead."
  )
