"""What TAT, DKS and EOC have in common: records that shape an activation for a network."""

import abc
import math
import numbers
from collections.abc import Iterable

from tatnet.layer.activations import Activation, is_library
from tatnet.layer.record import TransformedActivation
from tatnet.network.nodes import Topology

RECTIFIERS = ("relu", "leaky_relu")


class Method(abc.ABC):
  """Targets for a network, and how an activation comes to meet them."""

  @abc.abstractmethod
  def shape(self, activation: Activation, network: Topology) -> TransformedActivation:
    """The activation with which the network meets the targets.

    Raises:
      ValueError: the method cannot serve the activation, or a target is out of the
        network's or the activation's reach.
    """

  @abc.abstractmethod
  def check_mixture(self, names: Iterable[str]) -> None:
    """Raises ValueError if one network cannot hold several activations of these names."""


def rectifier_name(activation: Activation) -> str | None:
  """Its name, if it is the library's ReLU or leaky ReLU, whose maps have closed forms."""
  return activation.name if is_library(activation) and activation.name in RECTIFIERS else None


def check_number(method: str, name: str, value: float, low: float, high: float, hint: str):
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not is_number:
    raise TypeError(f"{method} got {name}={value!r}; expected a number.")
  if not low < value < high:
    upper = "" if math.isinf(high) else f" and below {high:g}"
    raise ValueError(
      f"{method} got {name}={value!r}; expected a number above {low:g}{upper}. {hint}"
    )
