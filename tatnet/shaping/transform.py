"""`transform_activation`: an activation, a network and a method make a record."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from tatnet.layer.activations import Activation, as_activation, is_library
from tatnet.layer.recognition import as_line, at_all_scales
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.builders import as_topology
from tatnet.network.nodes import Topology
from tatnet.shaping.method import Method


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
  if not isinstance(method, Method):
    raise TypeError(f"method is {method!r}; expected tatnet.TAT(), tatnet.DKS() or tatnet.EOC().")
  return method.shape(_checked(base, method), network)


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
  if len(bases) > 1:
    method.check_mixture(bases)
  return {name: transform_activation(base, topology, method) for name, base in bases.items()}


def _checked(activation: Activation, method: Method) -> Activation:
  """The activation, with the kink that a rectifier in any spelling has."""
  record = as_transformed(activation)
  line = None if is_library(activation) else at_all_scales(as_line, activation.function)
  if line is not None:
    raise ValueError(
      f"{activation.name} is the straight line {line.slope:.6g} x + {line.offset:.6g}, which no"
      f" scale and shift bend: it cannot be transformed by {type(method).__name__}, and has no edge"
      " of chaos. Choose another activation."
    )
  is_rectifier = record.base is None and not is_library(activation)
  return dataclasses.replace(activation, kinks=(0.0,)) if is_rectifier else activation


def _refuse_transformed(activation: Any) -> None:
  if isinstance(activation, TransformedActivation):
    raise TypeError(
      f"activation is already transformed: {activation!r}. Expected a name, an elementwise"
      " function or a tatnet.Activation; transform the base activation once, for the network."
    )
