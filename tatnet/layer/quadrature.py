"""Expectations under one or two standard normal variables, split at kinks.

Composite Gauss-Legendre panels over ``[-RADIUS, RADIUS]``: beyond it the normal
density is below 1e-31. Wherever the integrand or one of its derivatives jumps a
panel ends, so each panel sees a smooth function and the rule keeps its
exponential convergence; a plain rule across a kink is wrong in the second digit.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

RADIUS = 12.0
_STRIP = 1 << 17


@functools.cache
def _legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
  nodes, weights = np.polynomial.legendre.leggauss(order)
  return nodes, weights


def _panel_rule(edges: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and normal-density weights on panels between sorted edges [..., p+1]."""
  t, w = _legendre(order)
  middle = (edges[..., 1:] + edges[..., :-1]) / 2
  half = (edges[..., 1:] - edges[..., :-1]) / 2
  nodes = middle[..., None] + half[..., None] * t
  density = np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
  weights = half[..., None] * w * density
  shape = (*edges.shape[:-1], -1)
  return nodes.reshape(shape), weights.reshape(shape)


def normal_rule(
  kinks: Sequence[float] | np.ndarray = (), *, panels: int = 48, order: int = 16
) -> tuple[np.ndarray, np.ndarray]:
  """Nodes x and weights w with ``sum(w * f(x)) = E[f(Z)]``, Z ~ N(0, 1).

  Args:
    kinks: points where f or one of its derivatives jumps, shape [..., k]. Leading
      axes make a rule each.
    panels: number of equal panels before the kinks are added.
    order: Gauss-Legendre nodes in each panel.

  Returns:
    Two float64 arrays of shape ``[..., (panels + k) * order]``; the shape does not
    depend on where the kinks are.
  """
  kinks = np.clip(np.asarray(kinks, np.float64), -RADIUS, RADIUS)
  edges = np.linspace(-RADIUS, RADIUS, panels + 1)
  edges = np.broadcast_to(edges, (*kinks.shape[:-1], panels + 1))
  return _panel_rule(np.sort(np.concatenate([edges, kinks], axis=-1)), order)


def bivariate_expectation(
  f: Callable[[np.ndarray], np.ndarray],
  c: float,
  scale1: float,
  scale2: float,
  kinks: Sequence[float],
  *,
  panels: int = 24,
  order: int = 12,
) -> float:
  """E[f(scale1 X) f(scale2 Y)] for standard normal X, Y of correlation c.

  In the rotated coordinates ``X = p U + r V, Y = s (p U - r V)``, with U and V
  independent, every kink of f is a straight line in the (U, V) plane. For each
  V the inner rule ends its panels where U meets those lines, and the outer rule
  ends its panels where two lines cross: the integrand is smooth in between, for
  every c in [-1, 1].
  """
  along, across = np.sqrt((1 + c) / 2), np.sqrt((1 - c) / 2)
  # The inner variable takes the larger coefficient, so that p never vanishes.
  p, r, s = (along, across, 1.0) if c >= 0 else (across, along, -1.0)
  lines1 = np.asarray(kinks, np.float64) / scale1
  lines2 = s * np.asarray(kinks, np.float64) / scale2
  with np.errstate(divide="ignore", invalid="ignore"):
    crossings = ((lines1[:, None] - lines2[None, :]) / (2 * r)).ravel()
  # With r = 0 the lines are parallel and V plays no part.
  v, v_weights = normal_rule(np.nan_to_num(crossings), panels=panels, order=order)

  # The plane in strips of V, so that memory stays small whatever the resolution.
  strip = max(1, _STRIP // (panels * order))
  total = 0.0
  for start in range(0, v.size, strip):
    at, weight = v[start : start + strip, None], v_weights[start : start + strip]
    meets = np.concatenate([(lines1 - r * at) / p, (lines2 + r * at) / p], axis=-1)
    u, u_weights = normal_rule(meets, panels=panels, order=order)
    x, y = scale1 * (p * u + r * at), scale2 * s * (p * u - r * at)
    total += weight @ np.sum(u_weights * f(x) * f(y), axis=1)
  return float(total)


def hermite_polynomials(x: np.ndarray, count: int) -> np.ndarray:
  """Orthonormal Hermite polynomials ``h_0 .. h_{count-1}`` at x, shape [count, n]."""
  h = np.empty((count, x.size))
  h[0], h[1] = 1.0, x
  for i in range(1, count - 1):
    h[i + 1] = (x * h[i] - np.sqrt(i) * h[i - 1]) / np.sqrt(i + 1)
  return h
