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

from tatnet import quadrature
from tatnet.activations import Activation

_SCALES = np.geomspace(1e-3, 20.0, 41)
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
  """One grid about the origin for a smooth activation, else one about each kink.

  Shifts are spaced like sinh about the centre. Near a kink what counts is the
  distance in units of alpha, so there the spacing shrinks with alpha.
  """
  alpha = _SCALES[:, None]
  unit = np.linspace(-1, 1, _SHIFTS)
  steepest = float(np.max(np.abs(activation.jet(np.linspace(-20, 20, 4001))[1])))
  grids = []
  for centre in activation.kinks or (0.0,):
    width = np.minimum(alpha, 1.0) if activation.kinks else np.ones_like(alpha)
    beta = centre + width * np.sinh(unit * np.arcsinh(_SHIFT_RANGE / width))
    grids.append(_tabulate(activation, np.broadcast_to(alpha, beta.shape), beta, steepest))
  return tuple(grids)


def _tabulate(activation, alpha: np.ndarray, beta: np.ndarray, steepest: float) -> Landscape:
  kinks = (np.asarray(activation.kinks) - beta[..., None]) / alpha[..., None]
  x, w = quadrature.normal_rule(kinks, panels=20, order=8)
  with np.errstate(all="ignore"):
    f, f1, f2, _ = activation.jet(alpha[..., None] * x + beta[..., None])

    def expect(values):
      return np.einsum("...n,...n->...", np.broadcast_to(w, values.shape), values)

    mean, cross = expect(f), expect(f1 * x)
    centred = f - mean[..., None]
    return Landscape(
      alpha=alpha,
      beta=beta,
      mean=mean,
      variance=expect(centred**2),
      mixed=expect(centred * f1 * x),
      cross=cross,
      slope=expect(f1**2),
      curvature=expect(f2**2),
      steepest=steepest,
    )
