"""Maps of a whole network: those of its layers, put together by its topology."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tatnet.layer.activations import Activation
from tatnet.layer.interpolation import AngularMap
from tatnet.layer.maps import LocalMaps
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.builders import as_topology
from tatnet.network.lines import LinearMap
from tatnet.network.nodes import Map, Maps, Nonlinear, Topology


def fixed_activations(topology: Topology) -> set[TransformedActivation]:
  """Activations of the layers that keep their own."""
  parts = topology.distinct_subnetworks
  return {part.activation for part in parts if isinstance(part, Nonlinear)} - {None}


def linear_maps(topology: Topology) -> list[LinearMap]:
  """Mixing, dropout and centring in a network, equal ones once."""
  return [part for part in topology.distinct_subnetworks if isinstance(part, LinearMap)]


def map_of_each_layer(topology: Topology, r: Map, quantity: str, c0: float = 0.0) -> Maps:
  """r for the layers to be solved for; for the others what their own map does.

  Args:
    topology: the network.
    r: the map of the layers that have no activation of their own.
    quantity: what is composed: "C", "c_slope", or "c_curvature". A curvature comes alone
      where all slopes are 1, and behind the slope that leads to it elsewhere (`bent`).
    c0: C(0) of the layers to be solved for, which a normalisation behind them removes;
      for the quantity "C" r itself says.
  """
  fixed, lines = fixed_activations(topology), linear_maps(topology)
  if not (fixed or lines):
    return r
  cosines = {activation: _cosine_map(activation) for activation in fixed}
  if quantity == "C":
    return {None: r, **cosines}
  maps: dict[Any, Map] = {None: r}
  for activation in fixed:
    maps[activation] = _own_map(activation.maps, quantity)
  for part in lines:
    _, slope = part.line({None: lambda _: c0, **cosines})
    maps[part] = lambda y, slope=slope: slope * y
  return maps


def bent(y: Any, curvature: float) -> Any:
  """The curvature behind a layer of slope 1; of a pair (slope, curvature) the pair."""
  if np.ndim(y) == 0:
    return y + curvature
  slope, before = y
  return np.array([slope, before + curvature * slope**2])


def largest_curvature(topology: Topology, kappa: float, c0: float = 0.0) -> float:
  """The largest C''(1) of a subnetwork whose layers have C'(1) = 1 and C''(1) = kappa.

  Args:
    topology: the network.
    kappa: C''(1) of the layers to be solved for.
    c0: their C(0).
  """
  maps = map_of_each_layer(topology, lambda y: bent(y, kappa), "c_curvature", c0)
  # Where slopes are 1 curvatures add up by themselves, in a hand-written map too.
  return topology.maximum(np.array([1.0, 0.0]) if linear_maps(topology) else 0.0, maps)


def _cosine_map(activation: TransformedActivation) -> Map:
  q = activation.maps.Q(1.0)
  if abs(q - 1) > 1e-6:
    raise ValueError(
      f"A layer keeps the activation {activation!r}, which maps q = 1 to {q:.6g}; expected 1, so"
      f" that the layers after it see q = 1. Multiply its output_scale by {q**-0.5:.9g}."
    )
  # Sums leave [-1, 1] by rounding.
  return lambda c: activation.maps.C(np.clip(c, -1.0, 1.0))


def _own_map(maps: LocalMaps, quantity: str) -> Map:
  if quantity == "c_slope":
    slope = maps.c_slope(1.0)
    return lambda y: slope * y
  curvature = maps.c_curvature(1.0)
  return lambda y: bent(y, curvature)


def layers_of(topology: Topology) -> str:
  """How many nonlinear layers it has, in words."""
  count = topology.num_nonlinear
  if count is None:
    return "the hand-written network"
  return f"{count} nonlinear layer{'' if count == 1 else 's'}"


def cmap(
  topology: Topology | Callable[[Any, Callable], Any],
  activation: str | Activation | Callable | TransformedActivation,
  c: float | np.ndarray,
) -> float | np.ndarray:
  """The global C map of a network: cosine at the output for a cosine at the input.

  Args:
    topology: the network; a hand-written ``f(x, r)`` as in `transform_activation`.
    activation: that of its nonlinear layers, transformed or not.
    c: cosine similarity, or an array of them, in [-1, 1].

  Returns:
    C_f(c), of c's shape, in float64.

  Raises:
    ValueError: c outside [-1, 1].

  Reference:
    Deep Kernel Shaping (arXiv 2110.01765), extended C maps.

  Example:
    >>> relu = tatnet.cmap(tatnet.chain(50), "relu", 0.0)
    >>> act = tatnet.transform_activation("leaky_relu", tatnet.chain(50), tatnet.TAT(0.9))
    >>> round(relu, 4), round(tatnet.cmap(tatnet.chain(50), act, 0.0), 4)
    (0.9879, 0.9)
  """
  network = as_topology(topology)
  cosines = np.asarray(c, np.float64)
  if not np.all(np.abs(cosines) <= 1):
    raise ValueError(f"c={c!r} is not a cosine similarity: expected numbers in [-1, 1].")
  evaluations = cosines.size * (network.num_nonlinear or 100)
  local = _vectorised(as_transformed(activation).maps, evaluations)
  value = np.asarray(network.compose(cosines, map_of_each_layer(network, local, "C")))
  return value if np.ndim(c) else float(value)


def _vectorised(maps: LocalMaps, evaluations: int) -> Callable:
  """The C map itself; interpolated where each value is a plane integral and many are needed."""
  many = maps.needs_plane_integrals(maps.operating_q) and evaluations > 100
  interpolant = _interpolant(maps) if many else None
  return interpolant or (lambda c: np.asarray(maps.C(np.clip(c, -1.0, 1.0))))


@functools.lru_cache(maxsize=32)
def _interpolant(maps: LocalMaps) -> AngularMap | None:
  """The C map to within rounding; None for one that no degree here resolves."""
  candidates = (AngularMap(maps, maps.operating_q, degree) for degree in (64, 128, 256))
  return next((candidate for candidate in candidates if candidate.has_converged), None)
