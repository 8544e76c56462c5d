"""`transform_activation`: an activation, a network and a method make a record."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tatnet.layer.activations import Activation, as_activation
from tatnet.layer.derivatives import slope_jumps
from tatnet.layer.interpolation import AngularMap
from tatnet.layer.maps import LocalMaps
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.builders import as_topology
from tatnet.network.nodes import Topology
from tatnet.shaping import edge_of_chaos, rectifiers, solver
from tatnet.shaping.methods import DKS, EOC, TAT, Method, map_of_each_layer
from tatnet.shaping.reach import NoSolutionError

_RECTIFIERS = ("relu", "leaky_relu")


def transform_activation(
  activation: str | Activation | Callable,
  topology: Topology | Callable[[Any, Callable], Any],
  method: Method,
) -> TransformedActivation:
  """Solves for the activation with which a network meets a method's targets.

  Runs once, on the host, in float64; every condition of the result holds to
  1e-10. Where conditions have several solutions, see `tatnet.shaping.solver` for the one
  that is taken.

  Args:
    activation: a name (`activation_names`), an elementwise JAX function, or an
      `Activation` for a function with kinks.
    topology: the network: `chain`, another `Topology`, or a hand-written function
      ``f(x, r)`` that applies the map r wherever the network has a nonlinear layer
      and returns the maximum over subnetworks.
    method: `TAT`, `DKS` or `EOC`.

  Returns:
    A `TransformedActivation`.

  Raises:
    ValueError: an unknown name, an activation that the method cannot serve, or a
      target out of the network's or the activation's reach; the message states
      what is within reach.
    TypeError: arguments of another kind.

  References:
    Zhang, Botev, Martens, Deep Learning without Shortcuts (arXiv 2203.08120),
    Algorithms 1 and 2. Martens et al., Deep Kernel Shaping (arXiv 2110.01765).

  Example:
    >>> tatnet.transform_activation("tanh", tatnet.chain(49), tatnet.DKS()).local.q_slope.__round__(9)
    1.0
    >>> net = tatnet.chain(33)
    >>> tatnet.transform_activation("leaky_relu", net, tatnet.TAT(0.99))
    Traceback (most recent call last):
    ...
    ValueError: eta=0.99 is out of reach for 33 nonlinear layers: at slope 0 they reach 0.9759, at slope 1 0.0000. Choose eta below 0.9759, or a deeper network.
  """
  network = as_topology(topology)
  _refuse_transformed(activation)
  base = as_activation(activation)
  if isinstance(method, type):
    raise TypeError(
      f"method is the class {method.__name__}; expected a record: {method.__name__}()."
    )
  if not isinstance(method, (TAT, DKS, EOC)):
    raise TypeError(f"method is {method!r}; expected tatnet.TAT(), tatnet.DKS() or tatnet.EOC().")
  is_named = as_transformed(base).base is None  # and checks it if it is not
  rectifier = base.name if is_named and base.name in _RECTIFIERS else None
  match method:
    case EOC():
      return rectifiers.eoc(rectifier, method) if rectifier else edge_of_chaos.solve(base, method)
    case DKS():
      conditions = method.conditions(network)
    case TAT():
      if rectifier:
        return rectifiers.tat(rectifier, network, method)
      if np.any(slope_jumps(base.jet, base.kinks)):
        raise ValueError(
          f"TAT cannot transform {base.name}, whose slope jumps: its C''(1) is infinite. Use"
          " tatnet.DKS, a smooth activation, or 'leaky_relu', for which TAT has a form of its own."
        )
      conditions = method.conditions(network)
  try:
    return rectifiers.dks(rectifier, conditions) if rectifier else solver.solve(base, conditions)
  except NoSolutionError as error:
    raise ValueError(_out_of_reach(base, network, method, conditions, error.nearest)) from None


def transform_activations(
  names: Iterable[str | Activation | Callable],
  topology: Topology | Callable[[Any, Callable], Any],
  method: Method,
) -> dict[str, TransformedActivation]:
  """Transforms several activations for one network that mixes them.

  Every layer meets the same local conditions, so any layer may use any of them.

  Args:
    names: the activations, as in `transform_activation`.
    topology: the network.
    method: `TAT` or `DKS`; `EOC` for rectifiers only.

  Returns:
    A dictionary from each activation's name to its record.

  Raises:
    ValueError: 'leaky_relu' mixed with others under TAT, or smooth activations
      mixed under EOC; otherwise as `transform_activation`.

  Example:
    >>> acts = tatnet.transform_activations(("tanh", "softplus"), tatnet.chain(49), tatnet.TAT())
    >>> sorted(acts)
    ['softplus', 'tanh']
  """
  if isinstance(names, str):
    raise TypeError(f"names is the string {names!r}; expected several, such as ('tanh', 'gelu').")
  if not isinstance(names, Iterable):
    raise TypeError(f"names is {names!r}; expected several activations, such as ('tanh', 'gelu').")
  names = list(names)
  for activation in names:
    _refuse_transformed(activation)
  bases: dict[str, Activation] = {}
  for base in map(as_activation, names):
    if bases.setdefault(base.name, base) != base:
      raise ValueError(
        f"names holds two activations called {base.name!r}; expected names that differ. Give one"
        " to tatnet.Activation(function, name=...)."
      )
  if not bases:
    raise ValueError("names is empty; expected at least one activation.")
  mixed = len(bases) > 1
  if mixed and isinstance(method, TAT) and set(bases) & set(_RECTIFIERS):
    raise ValueError(
      f"TAT got {', '.join(bases)}: its condition on leaky_relu is one on the whole network's"
      " C(0), those on smooth activations are local. Expected leaky_relu alone, or smooth"
      " activations only; tatnet.DKS can mix them."
    )
  if mixed and isinstance(method, EOC) and set(bases) - set(_RECTIFIERS):
    raise ValueError(
      f"EOC got {', '.join(bases)}: each has a weight scale and a fixed point of its own, so one"
      " network cannot hold both. Expected one smooth activation, or relu and leaky_relu."
    )
  return {name: transform_activation(base, topology, method) for name, base in bases.items()}


def _refuse_transformed(activation: Any) -> None:
  if isinstance(activation, TransformedActivation):
    raise TypeError(
      f"activation is already transformed: {activation!r}. Expected a name, an elementwise"
      " function or a tatnet.Activation; transform the base activation once, for the network."
    )


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


def _out_of_reach(activation, network, method, conditions, nearest: float | None) -> str:
  """Message for a local target that the activation cannot meet, in the method's own terms."""
  if isinstance(method, DKS):
    given, symbol, knob = f"C(0) = 0 and Q'(1) = {method.q_slope:g}", "C'(1)", "zeta"
    wanted, target = conditions.c_slope, method.zeta
  else:
    given, symbol, knob = "Q'(1) = C'(1) = 1", "C''(1)", "tau"
    wanted, target = conditions.c_curvature, method.tau
  if nearest is None:
    return (
      f"{activation.name} cannot be transformed by {type(method).__name__}: no input scale and"
      f" shift were found that give it {given}. Choose another activation."
    )
  if isinstance(method, DKS):
    reached = network.maximum(1.0, map_of_each_layer(network, lambda y: nearest * y, "c_slope"))
  else:
    reached = network.maximum(0.0, map_of_each_layer(network, lambda y: y + nearest, "c_curvature"))
  side, change = ("at most", "deeper") if nearest < wanted else ("at least", "shallower")
  return (
    f"{knob}={target:g} is out of reach for {activation.name} in this network: it asks each layer"
    f" for {symbol} = {_spelled(wanted)}, and with {given} the activation reaches {side} about"
    f" {_spelled(nearest)}. Choose {knob} {side} {_spelled(reached)}, a {change} network, or another activation."
  )


def _spelled(value: float) -> str:
  """Enough digits to tell a slope from 1."""
  return f"1 + {value - 1:.3g}" if 0 < value - 1 < 1e-3 else f"{value:.6g}"
