"""Residual networks of any plan: one block, one network."""

import functools
from typing import Unpack

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.nets import layers
from tatnet.nets.options import NetworkOptions, Options, residual_weights
from tatnet.nets.plan import BlockPlan, Plan, Run
from tatnet.nets.shortcuts import shortcut


class Block(hk.Module):
  """Shortcut and branch, added; the branch alone where the shortcut has no weight.

  Args:
    plan: layers of the branch, and where the activation stands.
    options: how they are built.
    name: name of the module.

  Example:
    >>> first = next(tatnet.nets.resnet.resnet_plan(50, version=2).runs())
    >>> options = tatnet.nets.Options(activation=jnp.tanh)
    >>> forward = lambda x: tatnet.nets.Block(first.block, options)(x, is_training=False)
    >>> images = jax.ShapeDtypeStruct((8, 56, 56, 64), jnp.float32)
    >>> list(jax.eval_shape(hk.transform(forward).init, jax.random.key(0), images))
    ['block/layer_1', 'block/layer_2', 'block/layer_3']
  """

  def __init__(self, plan: BlockPlan, options: Options, name: str | None = None):
    super().__init__(name=name)
    self.plan = plan
    self.options = options

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """The sum for x ``[batch, ..., channels]``, with the plan's channels and stride."""
    options, plan = self.options, self.plan
    last = len(plan.layers)
    branch = x
    if plan.order.before:
      branch = self._activate(branch, is_training, 0)
    # A shortcut that changes the shape reads what the first layer reads.
    skipped = branch if plan.changes_shape else x
    for place, layer in enumerate(plan.layers):
      if place:
        branch = self._activate(branch, is_training, place)
      branch = layers.affine(options, layer, branch, name=f"layer_{place + 1}", in_branch=True)
    if plan.order.after:
      branch = layers.normalize(options, branch, is_training, name=f"norm_{last}")
    x = self._add(skipped, branch, is_training)
    return options.activation(x) if plan.order.after else x

  @hk.transparent
  def _activate(self, x: jax.Array, is_training: bool, place: int) -> jax.Array:
    x = layers.normalize(self.options, x, is_training, name=f"norm_{place}")
    return self.options.activation(x)

  @hk.transparent
  def _add(self, skipped: jax.Array, branch: jax.Array, is_training: bool) -> jax.Array:
    options = self.options
    weight, rest = residual_weights(options.shortcut_weight)
    if weight == 0:
      return branch
    if self.plan.changes_shape:
      skipped = shortcut(options, self.plan, skipped, is_training)
    if options.residual_gain is not None:
      init = hk.initializers.Constant(options.residual_gain)
      branch *= hk.get_parameter("residual_gain", [], branch.dtype, init=init)
    if options.shortcut_weight is None:
      return skipped + branch
    return weight * skipped + rest * branch


class ResidualNetwork(hk.Module):
  """A network of a given plan; `ResNet`, `MLP` and the others choose the plan.

  Args:
    plan: the architecture.
    num_classes: size of the output.
    name: name of the module.
    **options: see `Options`.

  Raises:
    ValueError: options that do not go together, or with the plan.

  Example:
    >>> plan = tatnet.nets.resnet.resnet_plan(18, version=2)
    >>> forward = lambda x: tatnet.nets.ResidualNetwork(plan, 10, activation=jax.nn.relu)(x)
    >>> images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    >>> len(jax.eval_shape(hk.transform(forward).init, jax.random.key(0), images))
    18
  """

  def __init__(
    self,
    plan: Plan,
    num_classes: int,
    *,
    name: str | None = None,
    **options: Unpack[NetworkOptions],
  ):
    super().__init__(name=name)
    self.plan = plan
    self.num_classes = num_classes
    self.options = Options(**options)
    if self.options.shortcut == "pool" and self.options.shortcut_weight:
      self._check_pooled_sums()

  def _check_pooled_sums(self):
    options, order = self.options, self.plan.order
    changes_shape = any(run.block.changes_shape for run in self.plan.runs())
    if options.is_shaped and changes_shape and (order.before or order.after):
      raise ValueError(
        f"shortcut='pool' with shortcut_weight={options.shortcut_weight} and"
        f" {options.activation!r}: the channels that are padded with zeros have another q than"
        " the rest, and the activation is applied to them directly. Expected"
        " shortcut='projection'."
      )

  def __call__(self, x: jax.Array, is_training: bool = False) -> jax.Array:
    """Logits of a batch.

    Args:
      x: float images ``[batch, height, width, channels]``; for a dense network
        ``[batch, ...]``, which is flattened.
      is_training: whether batch normalisation uses the batch, and dropout drops.

    Returns:
      An array ``[batch, num_classes]``.

    Raises:
      ValueError: x has another rank, or is not float.
    """
    self._check_input(x)
    stem, options = self.plan.stem, self.options
    if stem.window is None:
      x = hk.Flatten()(x)
    x = layers.affine(options, stem, x, name="stem")
    if self.plan.order.after:
      x = options.activation(layers.normalize(options, x, is_training, name="stem_norm"))
    if self.plan.max_pool:
      x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for run in self.plan.runs():
      x = self._blocks(run, x, is_training)
    if self.plan.final_activation:
      x = options.activation(layers.normalize(options, x, is_training, name="final_norm"))
    if stem.window is not None:
      x = jnp.mean(x, axis=(1, 2))
    if is_training and options.dropout_rate:
      x = hk.dropout(hk.next_rng_key(), options.dropout_rate, x)
    return self.logits(x)

  @hk.transparent
  def logits(self, x: jax.Array) -> jax.Array:
    """The last layer."""
    return layers.logits(self.options, x, self.num_classes)

  @hk.transparent
  def _blocks(self, run: Run, x: jax.Array, is_training: bool) -> jax.Array:
    block = functools.partial(Block, run.block, self.options)
    if self.options.stacked and run.count > 1:
      stack = hk.experimental.layer_stack(run.count, name=f"stage_{run.stage}_layer_stack")
      return stack(lambda x: block(name="block")(x, is_training))(x)
    for number in range(run.start, run.start + run.count):
      x = block(name=f"stage_{run.stage}_block_{number}")(x, is_training)
    return x

  def _check_input(self, x: jax.Array):
    dense = self.plan.stem.window is None
    if not jnp.issubdtype(x.dtype, jnp.floating) or (x.ndim < 2 if dense else x.ndim != 4):
      expected = "[batch, ...]" if dense else "[batch, height, width, channels]"
      raise ValueError(
        f"{type(self).__name__} got an input of shape {x.shape} and dtype {x.dtype}; expected a"
        f" float array {expected}."
      )
