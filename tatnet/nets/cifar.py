"""ResNets for images of 32x32."""

import dataclasses
from typing import Unpack

from tatnet.nets.options import NetworkOptions
from tatnet.nets.plan import PRE_ACTIVATION, Layer, Plan, Stage
from tatnet.nets.residual import ResidualNetwork
from tatnet.nets.resnet import BASIC, order_of_version, resnet_plan
from tatnet.network.nodes import Topology


def cifar_plan(depth: int, version: int, width: int) -> Plan:
  """The plan of a ResNet of 6n + 2 layers."""
  if depth < 8 or depth % 6 != 2:
    raise ValueError(
      f"CifarResNet got depth={depth!r}; expected 6n + 2 with n at least 1: 20, 32, 44, 56, 110."
    )
  if width < 1:
    raise ValueError(f"CifarResNet got width={width!r}; expected a positive integer.")
  order = order_of_version(version)
  blocks, channels = (depth - 2) // 6, 16 * width
  return Plan(
    Layer(channels, 3),
    (Stage(blocks, channels), Stage(blocks, 2 * channels, 2), Stage(blocks, 4 * channels, 2)),
    BASIC,
    order,
    final_activation=order.before,
  )


def preact_plan(depth: int) -> Plan:
  """A ResNet's stages of version 2, on a 3x3 stem and without a last activation."""
  imagenet = resnet_plan(depth, version=2)
  return dataclasses.replace(
    imagenet, stem=Layer(64, 3), order=PRE_ACTIVATION, final_activation=False, max_pool=False
  )


class CifarResNet(ResidualNetwork):
  """A ResNet of 6n + 2 layers with 16, 32 and 64 channels times a multiplier.

  Args:
    depth: 6n + 2: 20, 32, 44, 56, 110, ...
    num_classes: size of the output.
    version: 1, activation after the sum, or 2, activation before each convolution.
    width: multiplier of the channels, as in wide ResNets.
    name: name of the module.
    **options: `activation` is required; see `tatnet.nets.Options`.

  Raises:
    ValueError: depth, version or width out of range, or options that do not go
      together.

  Reference:
    He et al. (arXiv 1512.03385), Section 4.2; Zagoruyko & Komodakis (arXiv 1605.07146).

  Example:
    >>> tatnet.nets.CifarResNet.topology(56).num_nonlinear
    55
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    version: int = 2,
    width: int = 1,
    name: str | None = "cifar_resnet",
    **options: Unpack[NetworkOptions],
  ):
    super().__init__(cifar_plan(depth, version, width), num_classes, name=name, **options)

  @staticmethod
  def topology(depth: int, *, version: int = 2, shortcut_weight: float = 0.0) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return cifar_plan(depth, version, 1).topology(shortcut_weight)


class PreActResNet(ResidualNetwork):
  """The pre-activation ResNet for small images that MacDonald et al. modify.

  Stages of 64 to 512 channels on a 3x3 stem, and no activation behind the last
  block. ``shortcut="pool+projection"`` is their modification; the parameters are
  those of ``"projection"``.

  Args:
    depth: 18, 34, 50, 101, 152 or 200.
    num_classes: size of the output.
    name: name of the module.
    **options: `activation` is required; see `tatnet.nets.Options`.

  Raises:
    ValueError: an unknown depth, or options that do not go together.

  Reference:
    MacDonald et al. (arXiv 2210.05371).

  Example:
    >>> tatnet.nets.PreActResNet.topology(18)
    16 x nonlinear
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    name: str | None = "preact_resnet",
    **options: Unpack[NetworkOptions],
  ):
    super().__init__(preact_plan(depth), num_classes, name=name, **options)

  @staticmethod
  def topology(depth: int, *, shortcut_weight: float = 0.0) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return preact_plan(depth).topology(shortcut_weight)
