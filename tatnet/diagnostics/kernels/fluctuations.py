"""How far kernels of finite width scatter about the maps.

A layer of n units averages n products of its activations, so q and c after it
scatter about Q and C with a variance of order 1 / n. What the layers before have
added is carried on by the derivatives of the maps. For weights that are independent
and Gaussian, and with ``f = phi(u)``, ``g = phi(v)`` of u, v of cosine c, the leading order of
a single q is

    r' = (Q'(q) q / Q(q))^2 r + Var(f^2) / n / (E f^2)^2,    r = Var(q) / q^2.

For a pair m is followed, the mean of the logarithms of both q's, together with c: where the
activation is not homogeneous C depends on q as well. With the vector ``(m, c)``, the matrix of
derivatives ``D = ((Q' q / Q, 0), (dC/dm, C'(c)))`` and ``a = (f^2 + g^2) / 2 E f^2 - 1``,
``b = f g / E f^2 - c' (a + 1)``,

    S' = D S D^T + Cov(a, b) / n,

where for linear layers ``Var(b) = (1 - c^2)^2``, the noise of the neural covariance SDE. That
depends on c, and strongly so near 1. So noise and C are taken on average over where c lies,
which for 50 layers of 256 units at c = 0.9 makes a third of the scatter; and c drifts, by
``-c (1 - c^2) / 2 n`` in a linear layer. Square orthogonal weights turn without noise of their
own, so theirs is a little less.

References:
  Li, Nica, Roy, The Neural Covariance SDE (arXiv 2206.02768).
"""

import dataclasses
import functools
import math

import numpy as np

from tatnet.layer.maps import LocalMaps

Variance = float | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
  """A variance, kept apart by whether it was there when a branch began.

  Of one quantity, or the covariance of several; then the fields are matrices.

  Attributes:
    before: variance where the branch began.
    gain: derivative of the quantity here in that at the branch's beginning.
    own: variance that the branch has added.
  """

  before: Variance = 0.0
  gain: Variance = 1.0
  own: Variance = 0.0

  @property
  def total(self) -> Variance:
    """The variance here."""
    return _carried(self.gain, self.before) + self.own

  def through(self, slope: Variance, added: Variance) -> "Noise":
    """Behind a layer with that derivative, which adds a variance."""
    gain = np.matmul(slope, self.gain) if np.ndim(slope) else slope * self.gain
    return Noise(self.before, gain, _carried(slope, self.own) + added)

  def branch(self) -> "Noise":
    """At the beginning of a branch from here."""
    if np.ndim(self.total):
      return Noise(self.total, np.eye(len(self.total)), np.zeros_like(self.total))
    return Noise(self.total)

  def joined(self, shares: list[float], branches: list["Noise"], crossed: Variance) -> "Noise":
    """Behind a sum: what was there before is common to the branches, the rest is not.

    Args:
      shares: squared weights of the branches, adding to 1.
      branches: the noise at their ends.
      crossed: variance of a linear layer, which products of two branches have.
    """
    gain = sum(share * branch.gain for share, branch in zip(shares, branches, strict=True))
    own = sum(share**2 * branch.own for share, branch in zip(shares, branches, strict=True))
    own = own + (1 - sum(share**2 for share in shares)) * crossed
    return self.through(gain, own)


def _carried(slope: Variance, variance: Variance) -> Variance:
  return slope @ variance @ slope.T if np.ndim(slope) else slope**2 * variance


SILENCE, PAIR_SILENCE = Noise(), Noise(np.zeros((2, 2)), np.eye(2), np.zeros((2, 2)))


def linear_noise(c: float) -> np.ndarray:
  """Covariance of (m, c) that a linear layer of one unit adds, by Isserlis' theorem."""
  return np.array([[1 + c**2, c * (1 - c**2)], [c * (1 - c**2), (1 - c**2) ** 2]])


@dataclasses.dataclass(frozen=True, eq=False)
class LayerNoise:
  """What one layer of unit width adds; divide by the width.

  Attributes:
    of_q: Var(f^2) / (E f^2)^2.
    of_pair: covariance of (m, c), shape [2, 2].
    drift: of the mean of c.
    q_slope: derivative of log Q in log q.
    c_in_q: derivative of C in m.
  """

  of_q: float
  of_pair: np.ndarray
  drift: float
  q_slope: float
  c_in_q: float

  @property
  def of_c(self) -> float:
    """Var(f g - C(c) (f^2 + g^2) / 2) / (E f^2)^2."""
    return float(self.of_pair[1, 1])


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of the normal density: finding them takes longer than all that uses them."""
  z, w = np.polynomial.hermite_e.hermegauss(64)
  return z, w / w.sum()


@functools.lru_cache(maxsize=4096)
def layer_noise(maps: LocalMaps, q: float, c: float) -> LayerNoise:
  """Noise of a layer at q and c, by a product rule of 64 x 64 points."""
  z, w = _rule()
  c = min(max(c, -1.0), 1.0)
  u = np.sqrt(q) * z
  v = np.sqrt(q) * (c * z[:, None] + np.sqrt(1 - c**2) * z)
  (f, slope), g = maps.jet(u)[:2], maps.jet(v.ravel())[0].reshape(v.shape)
  weights = w[:, None] * w

  def mean(values):
    return float(np.sum(weights * values))

  q_f, q_g = float(w @ f**2), mean(g**2)
  if not (q_f > 0 and q_g > 0):
    return LayerNoise(0.0, np.zeros((2, 2)), 0.0, 0.0, 0.0)
  in_log_q = (u * slope / 2 / math.sqrt(q_f))[:, None]  # of f
  f, g = (f / math.sqrt(q_f))[:, None], g / math.sqrt(q_g)
  cosine, product = mean(f * g), f * g
  of_f, of_mean = f**2 - mean(f**2), (f**2 + g**2) / 2 - (mean(f**2) + mean(g**2)) / 2
  deviation = product - cosine * (f**2 + g**2) / 2
  of_q, both = max(mean(f**4) - 1, 0.0), mean(of_f * (g**2 - mean(g**2)))
  crossed = mean(of_mean * deviation)
  of_pair = np.array([[mean(of_mean**2), crossed], [crossed, mean(deviation**2)]])
  # To second order in the fluctuations of f g, f^2 and g^2.
  drift = -mean(of_f * (product - cosine)) + cosine * (3 * of_q + both) / 4
  return LayerNoise(
    of_q,
    of_pair,
    drift,
    q_slope=2 * mean(in_log_q * f),
    c_in_q=2 * (mean(in_log_q * g) - cosine * mean(in_log_q * f)),
  )


def spread(mean: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and weights that stand for a distribution of that mean and variance.

  Gauss's points of a Beta distribution on [-1, 1], which is skewed as cosines near 1 are.
  """
  room = 1 - mean**2
  if not (room > 1e-9 and variance > 1e-12):
    return np.full(_POINTS, min(max(mean, -1.0), 1.0)), np.full(_POINTS, 1 / _POINTS)
  size = room / min(variance, 0.95 * room) - 1  # alpha + beta
  a, b, n = size * (1 - mean) / 2 - 1, size * (1 + mean) / 2 - 1, np.arange(1, _POINTS)
  # Recurrence of Jacobi's polynomials, orthogonal under (1 - t)^a (1 + t)^b; of which Golub
  # and Welsch make the rule.
  diagonal = np.append(mean, (b**2 - a**2) / ((2 * n + a + b) * (2 * n + a + b + 2)))
  beside = 4 * n * (n + a) * (n + b) / ((2 * n + a + b) ** 2 * (2 * n + a + b + 1))
  beside[1:] *= (n[1:] + a + b) / (2 * n[1:] + a + b - 1)  # 1 for the first
  beside = np.sqrt(beside)
  cosines, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
  return np.clip(cosines, -1.0, 1.0), vectors[0] ** 2


_POINTS = 4
