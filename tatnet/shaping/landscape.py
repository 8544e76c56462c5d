"""Where the solutions are: an activation's moments over a grid of (alpha, beta).

The conditions of DKS and smooth TAT leave two unknowns once the output shift is
eliminated, the input scale alpha and the input shift beta. The moments do not
depend on the targets, so they are tabulated once per activation; for given
targets every cell of the grid in which both residuals change sign yields a
start for Newton's method. That enumerates the solutions instead of hoping that
a start finds one, and where there is none it shows how far the activation goes.
"""

import dataclasses
import functools

import numpy as np

from tatnet.layer import quadrature
from tatnet.layer.activations import Activation

_SCALES = np.geomspace(1e-3, 80.0, 47)
_SHIFT_RANGE = 10.0
_SHIFTS = 61


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
  """Moments of phi(alpha x + beta); every array has shape [alphas, betas].

  Attributes:
    alpha, beta: the grid.
    mean, variance: of phi.
    mixed: Cov(phi, phi' x).
    cross: E[phi' x].
    slope: E[phi'^2].
    curvature: E[phi''^2], without what slope jumps would add.
    steepest: the largest |phi'| anywhere.
  """

  alpha: np.ndarray
  beta: np.ndarray
  mean: np.ndarray
  variance: np.ndarray
  mixed: np.ndarray
  cross: np.ndarray
  slope: np.ndarray
  curvature: np.ndarray
  steepest: float


def corners(a: np.ndarray) -> np.ndarray:
  """The four corner values of every cell, shape [4, alphas - 1, betas - 1]."""
  return np.stack([a[:-1, :-1], a[1:, :-1], a[:-1, 1:], a[1:, 1:]])


def interpolate(s: np.ndarray, t: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Bilinear value at the cell coordinates s, t in [-1/2, 1/2]; corners as in `corners`."""
  first = (0.5 - s) * values[0] + (0.5 + s) * values[1]
  second = (0.5 - s) * values[2] + (0.5 + s) * values[3]
  return (0.5 - t) * first + (0.5 + t) * second


def common_root(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cell coordinates (s, t) where the planes through two residuals both vanish."""
  (a, a_s, a_t), (b, b_s, b_t) = (
    (v.mean(0), (v[1] + v[3] - v[0] - v[2]) / 2, (v[2] + v[3] - v[0] - v[1]) / 2)
    for v in (first, second)
  )
  with np.errstate(all="ignore"):
    determinant = a_s * b_t - a_t * b_s
    return (a_t * b - a * b_t) / determinant, (a * b_s - a_s * b) / determinant


def cells_with_root(residual: np.ndarray) -> np.ndarray:
  """The cells in which a residual changes sign, as a mask; none that touch a NaN."""
  values = corners(residual)
  return np.isfinite(values).all(0) & (values.min(0) <= 0) & (values.max(0) >= 0)


@functools.lru_cache(maxsize=64)
def landscapes(activation: Activation) -> tuple[Landscape, ...]:
  """One grid about the middle of a smooth activation, else one about each kink.

  Scales and shifts are in units of the width over which phi bends. Shifts are
  spaced like sinh about the centre. Near a kink what counts is the distance in
  units of alpha, so there the spacing shrinks with alpha.
  """
  middle, unit = _extent(activation)
  alpha = unit * _SCALES
  width = np.minimum(alpha, unit) if activation.kinks else np.full_like(alpha, unit)
  # A steep phi saturates: what bends lies within a few alpha.
  reach = np.maximum(_SHIFT_RANGE * unit, 3 * alpha)
  steepest = float(np.max(np.abs(activation.jet(middle + unit * np.linspace(-20, 20, 4001))[1])))
  grids = []
  for centre in activation.kinks or (middle,):
    positions = np.linspace(-1, 1, _SHIFTS) * np.arcsinh(reach / width)[:, None]
    beta = centre + width[:, None] * np.sinh(positions)
    rows = [_tabulate(activation, a, b, a / unit) for a, b in zip(alpha, beta, strict=True)]
    moments = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    grids.append(
      Landscape(np.broadcast_to(alpha[:, None], beta.shape), beta, steepest=steepest, **moments)
    )
  return tuple(grids)


def _extent(activation: Activation) -> tuple[float, float]:
  """Centre and unit of length of an activation: 0 and 1 unless it lies elsewhere.

  Functions of ordinary size bend within 10 of the origin and over more than 0.1.
  For others the quartiles of |d phi'| give the place and the width of the bend.
  """
  for radius in (10.0, 100.0, 1e3, 1e4):
    x = np.linspace(-radius, radius, 4001)
    slope = activation.jet(x)[1]
    bend = np.abs(np.diff(slope))
    if np.ptp(slope) > 0.1 * np.max(np.abs(slope)):
      break
  total = np.cumsum(bend)
  if not (np.isfinite(total[-1]) and total[-1] > 0):
    return 0.0, 1.0
  low, middle, high = np.interp(np.array([0.25, 0.5, 0.75]) * total[-1], total, x[1:])
  ordinary = radius == 10.0 and high - low > 0.1
  return (0.0, 1.0) if ordinary else (float(middle), float(max(high - low, 1e-3)))


def _tabulate(
  activation: Activation, alpha: float, beta: np.ndarray, steepness: float
) -> dict[str, np.ndarray]:
  """One row of the grid: moments at one scale and all shifts."""
  kinks = (np.asarray(activation.kinks) - beta[:, None]) / alpha
  x, w = quadrature.normal_rule(kinks, panels=20 * max(1, round(steepness / 5)), order=8)
  with np.errstate(all="ignore"):
    f, f1, f2, _ = activation.jet(alpha * x + beta[:, None])

    def expect(values):
      return np.einsum("bn,bn->b", np.broadcast_to(w, values.shape), values)

    mean = expect(f)
    centred = f - mean[:, None]
    return {
      "mean": mean,
      "variance": expect(centred**2),
      "mixed": expect(centred * f1 * x),
      "cross": expect(f1 * x),
      "slope": expect(f1**2),
      "curvature": expect(f2**2),
    }
