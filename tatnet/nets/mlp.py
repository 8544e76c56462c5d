"""Multilayer perceptrons."""

from typing import Unpack

from tatnet.nets.options import NetworkOptions
from tatnet.nets.plan import PRE_ACTIVATION, Layer, Plan, Stage
from tatnet.nets.residual import ResidualNetwork
from tatnet.network.nodes import Topology


def mlp_plan(width: int, depth: int) -> Plan:
  """A dense layer, ``depth - 1`` residual blocks of one dense layer, an activation."""
  if width < 1 or depth < 1:
    raise ValueError(f"MLP got width={width}, depth={depth}; expected positive integers.")
  stages = (Stage(blocks=depth - 1, channels=width),)
  return Plan(Layer(width, None), stages, (None,), PRE_ACTIVATION, final_activation=True)


class MLP(ResidualNetwork):
  """A multilayer perceptron of equal hidden layers; inputs are flattened.

  Hidden layers are stacked by default: a thousand of them compile as fast as two.

  Args:
    width: units of a hidden layer.
    depth: number of hidden layers, which is that of nonlinear layers.
    num_classes: size of the output.
    name: name of the module.
    **options: `activation` is required; see `tatnet.nets.Options`. Shortcuts pass by
      one layer each and change no shape.

  Raises:
    ValueError: sizes out of range, or options that do not go together.

  Example:
    >>> topology = tatnet.nets.MLP.topology(256, 100)
    >>> act = tatnet.transform_activation("tanh", topology, tatnet.DKS())
    >>> network = hk.transform(lambda x: tatnet.nets.MLP(256, 100, 10, activation=act)(x))
    >>> params = jax.eval_shape(network.init, jax.random.key(0), jnp.ones([8, 784]))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    6716938
  """

  def __init__(
    self,
    width: int,
    depth: int,
    num_classes: int,
    *,
    name: str | None = "mlp",
    **options: Unpack[NetworkOptions],
  ):
    super().__init__(
      mlp_plan(width, depth), num_classes, name=name, **({"stacked": True} | options)
    )

  @staticmethod
  def topology(width: int, depth: int, *, shortcut_weight: float = 0.0) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return mlp_plan(width, depth).topology(shortcut_weight)
