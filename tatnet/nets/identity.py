"""The all-convolutional residual network of "Identity Matters in Deep Learning"."""

from typing import Unpack

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.nets.gaussian import SmallNormal
from tatnet.nets.options import NetworkOptions
from tatnet.nets.plan import INNER_ACTIVATION, Layer, Plan, Stage
from tatnet.nets.residual import ResidualNetwork
from tatnet.nets.resnet import BASIC, BLOCKS
from tatnet.network.nodes import Topology

PLANS = {
  56: Plan(
    Layer(16, 3, with_bias=False),
    (Stage(9, 64), Stage(9, 128, 2), Stage(9, 256, 2)),
    BASIC,
    INNER_ACTIVATION,
    final_activation=False,
  ),
  # The paper gives no table for ImageNet: this is the 34-layer ResNet with a stride
  # in place of its max pooling.
  34: Plan(
    Layer(64, 7, stride=2, with_bias=False),
    tuple(Stage(blocks, 64 * 2**place, 2) for place, blocks in enumerate(BLOCKS[34])),
    BASIC,
    INNER_ACTIVATION,
    final_activation=False,
  ),
}


def identity_plan(depth: int) -> Plan:
  """The plan of a network of Hardt & Ma."""
  if depth not in PLANS:
    raise ValueError(
      f"IdentityResNet got depth={depth!r}; expected 56 (CIFAR: 55 convolutions and the fixed"
      " projection) or 34 (ImageNet)."
    )
  return PLANS[depth]


class IdentityResNet(ResidualNetwork):
  """Residual blocks ``x + V relu(U x)`` of convolutions, and nothing else.

  No normalisation, no biases, no activation outside the branches, and a last layer
  that is a fixed random projection: it is part of the network's state and is not
  trained. Defaults are those of the paper: ordinary sums, average-pooled shortcuts,
  branches that start near zero. With a number for `shortcut_weight` the weights
  are drawn to keep q, as in the other networks.

  Args:
    depth: 56 for CIFAR (55 convolutions), 34 for ImageNet.
    num_classes: size of the output.
    name: name of the module.
    **options: see `tatnet.nets.Options`.

  Raises:
    ValueError: an unknown depth, or options that do not go together.

  Reference:
    Hardt & Ma, Identity Matters in Deep Learning (arXiv 1611.04231), Section 4.

  Example:
    >>> network = hk.transform_with_state(lambda x: tatnet.nets.IdentityResNet(56, 10)(x))
    >>> images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    >>> params, state = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    13538736
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    name: str | None = "identity_resnet",
    **options: Unpack[NetworkOptions],
  ):
    own = {"activation": jax.nn.relu, "shortcut_weight": None, "shortcut": "pool"}
    if options.get("shortcut_weight") is None:
      own["branch_init"] = SmallNormal()
    super().__init__(identity_plan(depth), num_classes, name=name, **(own | options))

  @hk.transparent
  def logits(self, x: jax.Array) -> jax.Array:
    """The fixed random projection."""
    init = hk.initializers.VarianceScaling(1.0, "fan_in", "uniform")
    shape = [x.shape[-1], self.num_classes]
    projection = hk.get_state("projection", shape, jnp.float32, init=init)
    return x @ jax.lax.stop_gradient(projection).astype(x.dtype)

  @staticmethod
  def topology(depth: int, *, shortcut_weight: float | None = None) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return identity_plan(depth).topology(shortcut_weight)
