"""C maps at many cosines: a polynomial in place of an integral for each value."""

import math

import numpy as np

from tatnet.layer.maps import LocalMaps


class AngularMap:
  """C(c; q, q) as a polynomial in the angle arccos(c), in which C is smooth even with kinks.

  Attributes:
    in_angle: the polynomial, on [0, pi].
  """

  def __init__(self, maps: LocalMaps, q: float, degree: int):
    self.in_angle = np.polynomial.Chebyshev.interpolate(
      lambda angle: maps.C(np.cos(angle), q, q), deg=degree, domain=[0.0, math.pi]
    )

  @property
  def has_converged(self) -> bool:
    """Whether more terms would not change it in float64."""
    return bool(np.max(np.abs(self.in_angle.coef[-8:])) < 1e-13)

  def __call__(self, c: np.ndarray) -> np.ndarray:
    inner = np.clip(c, -1.0, 1.0)
    return np.where(inner >= 1.0, 1.0, np.clip(self.in_angle(np.arccos(inner)), -1.0, 1.0))
