"""Shortcuts of blocks that change the number of channels or of locations."""

import math

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.nets import layers
from tatnet.nets.options import Options
from tatnet.nets.plan import BlockPlan


def pooled(x: jax.Array, channels: int, stride: int) -> jax.Array:
  """Average pooling, with zeros on both sides of the channels for those that are new.

  Args:
    x: images ``[batch, height, width, inputs]``.
    channels: of the result, at least `inputs`.
    stride: window and stride of the pooling.

  Returns:
    An array ``[batch, ceil(height / stride), ceil(width / stride), channels]``.

  Raises:
    ValueError: fewer channels than the input has.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Section 4.1.

  Example:
    >>> tatnet.nets.pooled(jnp.ones([2, 8, 8, 16]), 32, 2).shape
    (2, 4, 4, 32)
  """
  new = channels - x.shape[-1]
  if new < 0:
    raise ValueError(
      f"pooled got channels={channels} for an input of {x.shape[-1]}; expected more."
    )
  if stride > 1:
    x = hk.avg_pool(x, (1, stride, stride, 1), (1, stride, stride, 1), "SAME")
  return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (-(-new // 2), new // 2)))


def shortcut(options: Options, plan: BlockPlan, x: jax.Array, is_training: bool) -> jax.Array:
  """The shortcut of a block that changes the shape."""
  layer = plan.projection
  total = 0.0
  if "pool" in options.shortcut:
    total = pooled(x, layer.channels, layer.stride)
    if options.shortcut_weight is not None:
      total *= math.sqrt(layer.channels / x.shape[-1])  # zeros for new channels dilute q
    elif "projection" in options.shortcut:
      total *= layer.stride  # the pooling's singular values are then 1: MacDonald et al.
  if "projection" in options.shortcut:
    y = layers.affine(options, layer, x, name="projection")
    if plan.order.after:
      y = layers.normalize(options, y, is_training, name="projection_norm")
    total = total + y
  return total
