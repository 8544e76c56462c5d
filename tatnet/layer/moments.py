"""Gaussian moments of ``phi(alpha x + beta) + delta`` and their exact derivatives.

Everything DKS and TAT ask of a local map at q = 1 is a ratio of the moments

    M = E[f],  V = E[f^2],  A = E[f f' x],  S = E[f'^2],  T = E[f''^2]

of ``f = phi(alpha x + beta) + delta``, with derivatives of phi in its own
argument: C(0) = M^2 / V, Q'(1) = alpha A / V, C'(1) = alpha^2 S / V and
C''(1) = alpha^4 T / V. The output scale 1 / sqrt(V) makes Q(1) = 1.

The unknowns are alpha, beta and the mean M, from which ``delta = M - E[phi]``
follows: with delta itself as the unknown, an error of the mean that is small
beside phi would swamp the bend of the map.
"""

import dataclasses

import numpy as np

from tatnet.layer import quadrature
from tatnet.layer.activations import Activation


@dataclasses.dataclass(frozen=True)
class LocalQuantities:
  """The four local quantities at n points, with gradients in (alpha, beta, M).

  Attributes:
    delta: the output shift, shape [n].
    variance: V = E[f^2], shape [n].
    values: ``mean`` (M / sqrt V, whose square is C(0)), ``q_slope``, ``c_slope``
      and ``c_curvature``, each of shape [n].
    gradients: the same keys; arrays of shape [n, 3].
  """

  delta: np.ndarray
  variance: np.ndarray
  values: dict[str, np.ndarray]
  gradients: dict[str, np.ndarray]


def local_quantities(activation: Activation, points: np.ndarray, panels: int) -> LocalQuantities:
  """Quantities and gradients by quadrature.

  Args:
    activation: phi.
    points: (alpha, beta, M) in rows, shape [n, 3].
    panels: number of panels of the quadrature.
  """
  alpha, beta, mean = points.T[..., None]
  corners = np.asarray(activation.kinks, np.float64)
  kinks = (corners - beta) / alpha
  x, w = quadrature.normal_rule(kinks, panels=panels)
  f, f1, f2, f3 = activation.jet(alpha * x + beta)
  # Differentiating an expectation of h(alpha x + beta) under the integral leaves
  # out the jumps of h: each adds jump * density * d(argument) / |alpha|.
  density = np.exp(-(kinks**2) / 2) / np.sqrt(2 * np.pi) / np.abs(alpha)

  def expect(values):
    return np.einsum("pn,pn->p", w, values)

  delta = mean - expect(f)[:, None]
  f = f + delta
  per_alpha, per_beta = expect(f1 * x), expect(f1)

  def gradient(in_alpha, in_beta, in_delta, jumping=None):
    if jumping is not None:
      left, right = (jumping(side) for side in activation.sides)
      jump = (right - left) * density
      in_alpha, in_beta = in_alpha + np.sum(jump * kinks, -1), in_beta + np.sum(jump, -1)
    # At constant M, delta moves against E[phi].
    in_alpha, in_beta = in_alpha - in_delta * per_alpha, in_beta - in_delta * per_beta
    return np.stack(np.broadcast_arrays(in_alpha, in_beta, in_delta), axis=-1)

  mean = mean[:, 0]
  variance, mixed = expect(f * f), expect(f * f1 * x)
  d_variance = gradient(2 * mixed, 2 * expect(f * f1), 2 * mean)
  product = f1 * f1 + f * f2
  # (name, power of alpha, moment, its gradient)
  moments = (
      ("q_slope", 1, mixed, gradient(
          expect(product * x * x), expect(product * x), per_alpha,
          jumping=lambda g: (g[0] + delta) * g[1] * kinks)),
      ("c_slope", 2, expect(f1 * f1), gradient(
          2 * expect(f1 * f2 * x), 2 * expect(f1 * f2), 0.0, jumping=lambda g: g[1] ** 2)),
      ("c_curvature", 4, expect(f2 * f2), gradient(
          2 * expect(f2 * f3 * x), 2 * expect(f2 * f3), 0.0, jumping=lambda g: g[2] ** 2)),
  )  # fmt: skip
  relative = d_variance / variance[:, None]
  values = {"mean": mean / np.sqrt(variance)}
  d_mean = np.array([0.0, 0.0, 1.0])
  gradients = {"mean": (d_mean - mean[:, None] * relative / 2) / np.sqrt(variance)[:, None]}
  for name, power, moment, d_moment in moments:
    factor = alpha[:, 0] ** power / variance
    values[name] = factor * moment
    gradients[name] = factor[:, None] * d_moment - values[name][:, None] * relative
    gradients[name][:, 0] += power * values[name] / alpha[:, 0]
  return LocalQuantities(delta[:, 0], variance, values, gradients)
