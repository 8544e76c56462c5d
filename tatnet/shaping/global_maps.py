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
from tatnet.network.nodes import Map, Maps, Nonlinear, Topology


def fixed_activations(topology: Topology) -> set[TransformedActivation]:
  """Activations of the layers that keep their own."""
  parts = topology.subnetworks()
  return {part.activation for part in parts if isinstance(part, Nonlinear)} - {None}


def map_of_each_layer(topology: Topology, r: Map, quantity: str) -> Maps:
  """r for the layers to be solved for; for the others what their own map does.

  Args:
    topology: the network.
    r: the map of the layers that have no activation of their own.
    quantity: what is composed: "C", "c_slope" or "c_curvature".
  """
  fixed = fixed_activations(topology)
  if not fixed:
    return r
  maps = {None: r}
  for activation in fixed:
    q = activation.maps.Q(1.0)
    if abs(q - 1) > 1e-6:
      raise ValueError(
        f"A layer keeps the activation {activation!r}, which maps q = 1 to {q:.6g}; expected 1, so"
        f" that the layers after it see q = 1. Multiply its output_scale by {q**-0.5:.9g}."
      )
    if quantity == "C":
      # Sums leave [-1, 1] by rounding.
      maps[activation] = lambda c, own=activation.maps: own.C(np.clip(c, -1.0, 1.0))
    elif quantity == "c_slope":
      slope = activation.maps.c_slope(1.0)
      maps[activation] = lambda y, slope=slope: slope * y
    else:
      curvature = activation.maps.c_curvature(1.0)
      maps[activation] = lambda y, curvature=curvature: y + curvature
  return maps


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
