"""Local maps at many values: polynomials in place of an integral for each value."""

import dataclasses
import functools
import math

import numpy as np

from tatnet.layer.interpolation import AngularMap
from tatnet.layer.maps import LocalMaps

_DEGREE = 24


@dataclasses.dataclass(frozen=True)
class ValuesAtPair:
  """Q'(q), C'(1), C'(c) and C(c) of a layer, at its q and the cosine `pair`."""

  q_slope: float
  slope_at_1: float
  slope_at_pair: float
  pair: float


@functools.lru_cache(maxsize=4096)
def local_values(maps: LocalMaps, q: float, pair: float) -> ValuesAtPair:
  """Of a layer that is entered with q and cosine `pair`."""
  interpolant, pair_slope = c_map(maps, q), 0.0
  pair = min(max(pair, -1.0), 1.0)
  if abs(pair) < 1:
    # dC/dc from the interpolant in the angle: a plane integral less.
    angle = math.acos(pair)
    pair_slope = float(interpolant.in_angle.deriv()(angle)) / -math.sin(angle)
  slope_at_1 = maps.c_slope(1.0, q, q)
  return ValuesAtPair(
    maps.q_slope(q),
    slope_at_1,
    pair_slope if abs(pair) < 1 else slope_at_1,
    float(interpolant(np.array([pair]))[0]),
  )


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
