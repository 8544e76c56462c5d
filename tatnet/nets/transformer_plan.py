"""Descriptions of transformers: what is built, and what its topology follows from."""

import dataclasses
import math
from typing import Literal

from tatnet.attention.checks import check_count, check_finite
from tatnet.attention.weights import check_heads
from tatnet.nets.options import check_shortcut_weight, residual_weights
from tatnet.network.builders import chain, identity, mixing, sequence, weighted_sum
from tatnet.network.nodes import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerPlan:
  """Blocks of attention and a dense part, on tokens of one width.

  Attributes:
    depth: number of blocks.
    width: number of features of a token.
    heads: number of heads, which divides the width.
    context: the largest number of tokens.
    nonlinear: nonlinear layers of the dense part: 1, ``W activation(W x)``; or 2,
      ``activation(W activation(W x))``.
    expansion: how many times as wide the inside of the dense part is.
    shortcut_weight: w of ``w * shortcut + sqrt(1 - w^2) * branch``, around attention and around
      the dense part; 0 for no shortcuts, None for the ordinary sum.
    normalization: "layer" in front of attention, of the dense part and of the last layer; None.

  Raises:
    TypeError: a size that is no integer.
    ValueError: sizes out of range, heads that do not divide the width, or blocks of two nonlinear
      layers with shortcuts or normalisation.

  Example:
    >>> tatnet.nets.TransformerPlan(depth=12, width=64, heads=4, context=128).inner
    256
  """

  depth: int
  width: int
  heads: int
  context: int
  nonlinear: int = 2
  expansion: float = 4.0
  shortcut_weight: float | None = 0.0
  normalization: Literal["layer"] | None = None

  def __post_init__(self):
    for field in ("depth", "context"):
      check_count("TransformerPlan", field, getattr(self, field))
    check_heads("TransformerPlan", self.width, self.heads)
    check_finite("TransformerPlan", "expansion", self.expansion, 1 / self.width)
    if self.normalization not in (None, "layer"):
      raise ValueError(
        f"TransformerPlan got normalization={self.normalization!r}; expected None or 'layer'."
      )
    _check_blocks(self.nonlinear, self.shortcut_weight, self.normalization)

  @property
  def inner(self) -> int:
    """The width inside of the dense part."""
    return round(self.expansion * self.width)


def _check_blocks(nonlinear: int, shortcut_weight: float | None, normalization) -> None:
  check_count("TransformerPlan", "nonlinear", nonlinear)
  if nonlinear > 2:
    raise ValueError(
      f"TransformerPlan got nonlinear={nonlinear}; expected 1, an activation between two dense layers,"
      " or 2, one behind each."
    )
  check_shortcut_weight(shortcut_weight)
  if nonlinear == 2 and (shortcut_weight != 0 or normalization):
    raise ValueError(
      f"TransformerPlan got nonlinear=2 with shortcut_weight={shortcut_weight} and"
      f" normalization={normalization!r}: a branch that ends with an activation has a mean, which sums"
      " and normalisation move. Expected nonlinear=1 with them."
    )


def transformer_topology(
  depth: int, *, step: float = 0.0, nonlinear: int = 2, shortcut_weight: float = 0.0
) -> Topology:
  """What `tatnet.trace` reads from a transformer whose attention starts as planned.

  Raises:
    ValueError: sizes out of range, or ordinary sums, which have no topology.
  """
  check_count("Transformer", "depth", depth)
  _check_blocks(nonlinear, shortcut_weight, None)
  if shortcut_weight is None:
    raise ValueError(
      "shortcut_weight=None has no topology: an ordinary sum does not keep q values. Expected a number"
      " w in [0, 1): the sum then has the weights w and sqrt(1 - w^2)."
    )
  weight, rest = residual_weights(shortcut_weight)
  parts = [part for part in (mixing(step), chain(nonlinear)) if part != identity()]
  block = [weighted_sum((weight, identity()), (rest, part)) for part in parts]
  return sequence(*block * depth)


def default_step(depth: int) -> float:
  """The step at which attention alone brings tokens from cosine 0 to 0.2 over the whole depth."""
  return -math.expm1(math.log(0.8) / check_count("Transformer", "depth", depth))
