"""Local maps at many values: polynomials in place of an integral for each value."""

import functools
import math

import numpy as np

from tatnet.layer.interpolation import AngularMap
from tatnet.layer.maps import LocalMaps

_DEGREE = 24


@functools.lru_cache(maxsize=1024)
def _interpolated(maps: LocalMaps, q: float) -> AngularMap:
  return AngularMap(maps, q, _DEGREE)


def c_map(maps: LocalMaps, q: float) -> AngularMap:
  """The map C(c; q, q), for many cosines."""
  # A plane integral takes milliseconds: near values of q share their map.
  return _interpolated(maps, rounded(q) if maps.needs_plane_integrals(q) else q)


def q_map(maps: LocalMaps, q: np.ndarray) -> np.ndarray:
  """Q(q) of many q values, by a polynomial of log q where they are many."""
  low, high = float(np.min(q)), float(np.max(q))
  if q.size <= _DEGREE or high <= low * (1 + 1e-9) or low <= 0:
    return np.asarray(maps.Q(q))
  polynomial = np.polynomial.Chebyshev.interpolate(
    lambda log: maps.Q(np.exp(log)), deg=_DEGREE, domain=[math.log(low), math.log(high)]
  )
  return np.maximum(polynomial(np.log(q)), 0.0)


def rounded(value: float) -> float:
  """To within 0.5 %, so that equal layers share what is expensive."""
  return round(value, 2 - math.floor(math.log10(abs(value)))) if abs(value) > 1e-9 else 0.0
