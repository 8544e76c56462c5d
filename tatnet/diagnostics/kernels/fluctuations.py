"""How far kernels of finite width scatter about the maps.

A layer of n units averages n products of its activations, so q and c after it
scatter about Q and C with a variance of order 1 / n. What the layers before have
added is carried on by the slope of the map. For weights that are independent and
Gaussian the leading order is

    q:  r'   = (Q'(q) q / Q(q))^2 r + Var(f^2) / n / (E f^2)^2,    r = Var(q) / q^2
    c:  s'   = C'(c)^2 s + Var(f g - C(c) (f^2 + g^2) / 2) / n / (E f^2)^2

with ``f = phi(u)``, ``g = phi(v)`` and u, v of cosine c. For linear layers the
second term is ``(1 - c^2)^2 / n``, the noise of the neural covariance SDE. Square
orthogonal weights turn without noise of their own, so theirs is a little less.

References:
  Li, Nica, Roy, The Neural Covariance SDE (arXiv 2206.02768).
"""

import dataclasses
import functools

import numpy as np

from tatnet.layer.maps import LocalMaps


@dataclasses.dataclass(frozen=True)
class Noise:
  """A variance, kept apart by whether it was there when a branch began.

  Attributes:
    before: variance where the branch began.
    gain: derivative of the quantity here in that at the branch's beginning.
    own: variance that the branch has added.
  """

  before: float = 0.0
  gain: float = 1.0
  own: float = 0.0

  @property
  def total(self) -> float:
    """The variance here."""
    return self.gain**2 * self.before + self.own

  def through(self, slope: float, added: float) -> "Noise":
    """Behind a layer with that slope, which adds a variance."""
    return Noise(self.before, self.gain * slope, self.own * slope**2 + added)

  def branch(self) -> "Noise":
    """At the beginning of a branch from here."""
    return Noise(before=self.total)

  def joined(self, shares: list[float], branches: list["Noise"], crossed: float) -> "Noise":
    """Behind a sum: what was there before is common to the branches, the rest is not.

    Args:
      shares: squared weights of the branches, adding to 1.
      branches: the noise at their ends.
      crossed: variance of a linear layer, which products of two branches have.
    """
    gain = sum(share * branch.gain for share, branch in zip(shares, branches, strict=True))
    own = sum(share**2 * branch.own for share, branch in zip(shares, branches, strict=True))
    own += (1 - sum(share**2 for share in shares)) * crossed
    return self.through(gain, own)


@dataclasses.dataclass(frozen=True)
class LayerNoise:
  """What one unit-width layer adds; divide by the width.

  Attributes:
    of_q: Var(f^2) / (E f^2)^2.
    of_c: Var(f g - C(c) (f^2 + g^2) / 2) / (E f^2)^2.
  """

  of_q: float
  of_c: float


@functools.lru_cache(maxsize=4096)
def layer_noise(maps: LocalMaps, q: float, c: float) -> LayerNoise:
  """Noise of a layer at q and c, by a product rule of 64 x 64 points."""
  z, w = np.polynomial.hermite_e.hermegauss(64)
  w = w / w.sum()
  c = min(max(c, -1.0), 1.0)
  u = np.sqrt(q) * z
  v = np.sqrt(q) * (c * z[:, None] + np.sqrt(1 - c**2) * z)
  f, g = maps.jet(u)[0][:, None], maps.jet(v.ravel())[0].reshape(v.shape)
  weights = w[:, None] * w

  def mean(values):
    return float(np.sum(weights * values))

  q_f, q_g = mean(f**2), mean(g**2)
  if not (q_f > 0 and q_g > 0):
    return LayerNoise(0.0, 0.0)
  f, g = f / np.sqrt(q_f), g / np.sqrt(q_g)
  cosine = mean(f * g)
  deviation = f * g - cosine * (f**2 + g**2) / 2
  return LayerNoise(max(mean(f**4) - 1, 0.0), mean(deviation**2))
