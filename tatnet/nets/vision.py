"""Transformers of the patches of an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count
from tatnet.attention.schedule import AttentionSchedule
from tatnet.nets.attention import Start
from tatnet.nets.tower import Tower, mean_of_tokens
from tatnet.nets.transformer_block import dense
from tatnet.nets.transformer_plan import TransformerPlan, transformer_topology


class VisionTransformer(Tower):
  """A transformer of the patches of an image, with logits for their mean.

  Args:
    depth: number of blocks.
    width: number of features of a patch.
    heads: number of heads, which divides the width.
    num_classes: size of the output.
    patch: height and width of a patch, in pixels.
    context: number of patches of an image.
    activation: that of the dense parts.
    attention: as for `Transformer`, of a schedule with causal=False.
    query_scale: see `ShapedAttention`.
    name: name of the module.
    **blocks: `nonlinear`, `expansion`, `shortcut_weight` and `normalization` of `TransformerPlan`.

  Raises:
    TypeError, ValueError: as `Transformer`.

  Reference:
    Dosovitskiy et al., An Image is Worth 16x16 Words (arXiv 2010.11929).

  Example:
    >>> start = tatnet.nets.IdentityStart()
    >>> network = hk.transform(
    ...   lambda x: tatnet.nets.VisionTransformer(
    ...     2, 32, 4, 10, patch=4, context=64, activation=jax.nn.gelu, attention=start
    ...   )(x)
    ... )
    >>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), images)
    >>> params["vision_transformer/patches"]["w"].shape
    (48, 32)
  """

  def __init__(
    self,
    depth: int,
    width: int,
    heads: int,
    num_classes: int,
    *,
    patch: int,
    context: int,
    activation: Callable[[jax.Array], jax.Array],
    attention: AttentionSchedule | Start,
    query_scale: float = 0.0,
    name: str | None = "vision_transformer",
    **blocks,
  ):
    plan = TransformerPlan(depth=depth, width=width, heads=heads, context=context, **blocks)
    super().__init__(
      plan,
      num_classes,
      activation=activation,
      attention=attention,
      causal=False,
      query_scale=query_scale,
      name=name,
    )
    self.patch = check_count("VisionTransformer", "patch", patch)

  topology = staticmethod(transformer_topology)

  def __call__(self, images: jax.Array, is_training: bool = False) -> jax.Array:
    """Logits of a batch.

    Args:
      images: floats [batch, height, width, channels] of whole patches.
      is_training: as all networks take it; nothing depends on it here.

    Returns:
      An array [batch, num_classes].

    Raises:
      ValueError: images of another rank, dtype or number of patches.
    """
    del is_training
    size = self.patch
    if (
      images.ndim != 4
      or not jnp.issubdtype(images.dtype, jnp.floating)
      or any(n % size for n in images.shape[1:3])
    ):
      raise ValueError(
        f"VisionTransformer got images of shape {images.shape} and dtype {images.dtype}; expected floats"
        f" [batch, height, width, channels], height and width multiples of patch={size}."
      )
    batch, height, width, channels = images.shape
    rows, columns = height // size, width // size
    if rows * columns != self.plan.context:
      raise ValueError(
        f"VisionTransformer got images of {rows} x {columns} patches; expected"
        f" context={self.plan.context} patches."
      )
    x = images.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
    x = x.reshape(batch, rows * columns, size * size * channels)
    x, _ = self._blocks(
      self._tokens(dense(self.activation, self.plan.width, x, "patches")), None, None
    )
    return self._logits(mean_of_tokens(x, None))
