"""Descriptions of residual networks: what is built, and what its topology follows from.

A `Plan` says what the configurations of one architecture share: the stem, the
stages, the layers of a block and where in a block the activation stands. The
same object is read twice, by `ResidualNetwork` to build the network and by
`Plan.topology` to describe it.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterator

from tatnet.nets.options import check_shortcut_weight, residual_weights
from tatnet.network.builders import chain, identity, sequence, weighted_sum
from tatnet.network.nodes import Topology


@dataclasses.dataclass(frozen=True)
class Order:
  """Where in a block the activation stands, besides between its layers.

  Attributes:
    before: ahead of the first layer, on what the block reads.
    after: on the sum of shortcut and branch.
  """

  before: bool
  after: bool


POST_ACTIVATION = Order(before=False, after=True)  # He et al. 2015, "version 1"
PRE_ACTIVATION = Order(before=True, after=False)  # He et al. 2016, "version 2"
INNER_ACTIVATION = Order(before=False, after=False)  # Hardt & Ma: V relu(U x)


@dataclasses.dataclass(frozen=True)
class Layer:
  """An affine layer: a convolution, or a dense layer where `window` is None."""

  channels: int
  window: int | None
  stride: int = 1
  with_bias: bool = True


@dataclasses.dataclass(frozen=True)
class Stage:
  """Blocks of the same number of output channels; the stride is the first one's."""

  blocks: int
  channels: int
  stride: int = 1


@dataclasses.dataclass(frozen=True)
class BlockPlan:
  """One residual block.

  Attributes:
    layers: those of the branch.
    order: where the activation stands.
    changes_shape: whether the shortcut must change the number of channels or locations.
  """

  layers: tuple[Layer, ...]
  order: Order
  changes_shape: bool

  @property
  def projection(self) -> Layer:
    """The layer that brings the input to the shape of the output."""
    last = self.layers[-1]
    stride = math.prod(layer.stride for layer in self.layers)
    return Layer(last.channels, None if last.window is None else 1, stride, last.with_bias)

  def topology(self, shortcut_weight: float) -> Topology:
    """The block as a normalised sum; without shortcut, its layers in a row."""
    inner = len(self.layers) - 1
    between = chain(inner) if inner else identity()
    first = chain(1) if self.order.before else identity()
    last = chain(1) if self.order.after else identity()
    weight, rest = residual_weights(shortcut_weight)
    if self.changes_shape:  # the layer that changes it reads the activated signal
      return sequence(first, weighted_sum((weight, identity()), (rest, between)), last)
    return sequence(weighted_sum((weight, identity()), (rest, sequence(first, between))), last)


@dataclasses.dataclass(frozen=True)
class Run:
  """Equal blocks in a row: which stage they belong to, and from which block on."""

  block: BlockPlan
  count: int
  stage: int
  start: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """A residual network.

  Attributes:
    stem: the first layer. Where the sums have an activation behind them, it has too.
    stages: the stages, in order.
    windows: of the layers of a branch: (3, 3), or (1, 3, 1) for a bottleneck, whose
      inner layers have a quarter of the channels; None is a dense layer.
    order: where in a block the activation stands.
    final_activation: whether there is one more behind the last block.
    max_pool: whether the stem ends with max pooling.
  """

  stem: Layer
  stages: tuple[Stage, ...]
  windows: tuple[int | None, ...]
  order: Order
  final_activation: bool
  max_pool: bool = False

  def runs(self) -> Iterator[Run]:
    """Blocks in the order of the signal."""
    channels = self.stem.channels
    for number, stage in enumerate(self.stages, start=1):
      changes_shape = stage.stride != 1 or channels != stage.channels
      if stage.blocks and changes_shape:
        first = BlockPlan(self._layers(stage.channels, stage.stride), self.order, True)
        yield Run(first, 1, number, 1)
      rest = BlockPlan(self._layers(stage.channels, 1), self.order, False)
      if stage.blocks > changes_shape:
        yield Run(rest, stage.blocks - changes_shape, number, 1 + changes_shape)
      channels = stage.channels

  def _layers(self, channels: int, stride: int) -> tuple[Layer, ...]:
    is_bottleneck = self.windows == (1, 3, 1)
    # The stride sits on the first layer that looks at neighbours.
    strided = self.windows.index(3) if 3 in self.windows else 0
    return tuple(
      Layer(
        channels // 4 if is_bottleneck and place < len(self.windows) - 1 else channels,
        window,
        stride if place == strided else 1,
        self.stem.with_bias,
      )
      for place, window in enumerate(self.windows)
    )

  def topology(self, shortcut_weight: float | None) -> Topology:
    """What `tatnet.trace` reads from the network.

    Raises:
      ValueError: shortcut_weight is None (an ordinary sum has no topology), or not
        in [0, 1).

    Warns:
      UserWarning: activations of version 1 read sums with shortcuts, which its maps take as
        Gaussian.
    """
    check_shortcut_weight(shortcut_weight)
    if shortcut_weight is None:
      raise ValueError(
        "shortcut_weight=None has no topology: an ordinary sum does not keep q values. Expected a"
        " number w in [0, 1): the sum then has the weights w and sqrt(1 - w^2)."
      )
    if self.order.after and shortcut_weight:
      warnings.warn(
        f"Version 1 with shortcut_weight={shortcut_weight!r}: its activations read sums in which"
        " earlier activations are left as they were, which the maps take as Gaussian; q and cosines"
        " of the network grow beyond them, the more the larger the weight and the depth. Take"
        " version 2 where there are shortcuts.",
        stacklevel=3,
      )
    blocks = [
      block for run in self.runs() for block in [run.block.topology(shortcut_weight)] * run.count
    ]
    first = chain(1) if self.order.after else identity()
    last = chain(1) if self.final_activation else identity()
    return sequence(first, *blocks, last)
