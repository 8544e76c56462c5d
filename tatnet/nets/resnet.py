"""ResNets for ImageNet."""

from typing import Unpack

from tatnet.nets.options import NetworkOptions
from tatnet.nets.plan import POST_ACTIVATION, PRE_ACTIVATION, Layer, Order, Plan, Stage
from tatnet.nets.residual import ResidualNetwork
from tatnet.network.nodes import Topology

BLOCKS = {
  18: (2, 2, 2, 2),
  34: (3, 4, 6, 3),
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
}
BASIC, BOTTLENECK = (3, 3), (1, 3, 1)


def order_of_version(version: int) -> Order:
  """Where the activation stands in the first and in the second paper on ResNets."""
  orders = {1: POST_ACTIVATION, 2: PRE_ACTIVATION}
  if version not in orders:
    raise ValueError(
      f"version={version!r}; expected 1 (activation after the sum) or 2 (activation before each"
      " convolution)."
    )
  return orders[version]


def resnet_plan(depth: int, version: int) -> Plan:
  """The plan of a ResNet."""
  if depth not in BLOCKS:
    raise ValueError(f"ResNet got depth={depth!r}; expected one of {', '.join(map(str, BLOCKS))}.")
  is_basic = depth < 50
  order = order_of_version(version)
  stages = tuple(
    Stage(blocks, channels=(64 if is_basic else 256) * 2**place, stride=2 if place else 1)
    for place, blocks in enumerate(BLOCKS[depth])
  )
  return Plan(
    Layer(64, 7, stride=2),
    stages,
    BASIC if is_basic else BOTTLENECK,
    order,
    final_activation=order.before,
    max_pool=True,
  )


class ResNet(ResidualNetwork):
  """A ResNet for ImageNet, with shortcuts or without.

  Strides sit on the 3x3 convolutions. With `shortcut_weight` 0 it is the vanilla
  network of the TAT paper. In version 1 with a shortcut weight the activation reads the
  output of the one before, unmixed, which the maps take as Gaussian: q grows from block to block,
  at depth 50 and weight 0.8 to 70 with TReLU and to 2.8 with tanh (``docs/networks.md``). Use
  version 2 there.

  Args:
    depth: 18, 34, 50, 101, 152 or 200.
    num_classes: size of the output.
    version: 1, activation after the sum, or 2, activation before each convolution.
    name: name of the module.
    **options: `activation` is required; see `tatnet.nets.Options`.

  Raises:
    ValueError: an unknown depth or version, or options that do not go together.

  Reference:
    He et al. (arXiv 1512.03385 and 1603.05027); Zhang et al. (arXiv 2203.08120).

  Example:
    >>> topology = tatnet.nets.ResNet.topology(50)
    >>> act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.9))
    >>> network = hk.transform(lambda x: tatnet.nets.ResNet(50, 1000, activation=act)(x))
    >>> images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 1)
    22.8
  """

  def __init__(
    self,
    depth: int,
    num_classes: int,
    *,
    version: int = 2,
    name: str | None = "resnet",
    **options: Unpack[NetworkOptions],
  ):
    super().__init__(resnet_plan(depth, version), num_classes, name=name, **options)

  @staticmethod
  def topology(depth: int, *, version: int = 2, shortcut_weight: float = 0.0) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return resnet_plan(depth, version).topology(shortcut_weight)
