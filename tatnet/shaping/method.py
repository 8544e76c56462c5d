"""What TAT, DKS and EOC have in common: records that shape an activation for a network."""

import abc
import math
from collections.abc import Iterable

from tatnet.layer.activations import Activation
from tatnet.layer.fields import as_float, is_number, shown
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.nodes import Topology

RECTIFIERS = ("relu", "leaky_relu")
_LARGEST = 1e100  # of targets: their squares are still numbers


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


def as_rectifier(activation: Activation) -> TransformedActivation | None:
  """The record of a ReLU or leaky ReLU in any spelling, whose maps have closed forms."""
  record = as_transformed(activation)
  return record if record.base is None and record.name in RECTIFIERS else None


def is_leaky(rectifier: TransformedActivation) -> bool:
  """Whether it is a leaky ReLU, of which TAT and DKS choose the slope; |x| is none."""
  return rectifier.name == "leaky_relu" and rectifier.negative_slope >= 0


def as_number(method: str, name: str, value: float, low: float, high: float, hint: str) -> float:
  """A target as a float.

  Raises:
    TypeError: it is no number.
    ValueError: it does not lie between `low` and `high`, or is beyond all reach.
  """
  if not is_number(value):
    raise TypeError(f"{method} got {name}={shown(value)}; expected a number.")
  number, highest = as_float(value), min(high, _LARGEST)
  if not low < number < highest:
    is_huge = highest <= number and value < math.inf
    upper = f" and below {highest:g}" if high < math.inf or is_huge else ""
    raise ValueError(
      f"{method} got {name}={shown(value)}; expected a number above {low:g}{upper}. {hint}"
    )
  return number
