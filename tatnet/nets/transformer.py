"""Transformers: decoders and encoders of tokens, and of patches of images."""

from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count
from tatnet.attention.schedule import AttentionSchedule
from tatnet.initializers import ScaledUniformOrthogonal
from tatnet.layer.fields import shown
from tatnet.layer.kernels import RectifierKernel
from tatnet.layer.record import TransformedActivation
from tatnet.nets.attention import IdentityStart, KeyValueCache, ShapedAttention, Start
from tatnet.nets.gaussian import HeNormal
from tatnet.nets.options import residual_weights
from tatnet.nets.transformer_plan import TransformerPlan, check_causal, transformer_topology
from tatnet.network.nodes import Topology

Caches = tuple[KeyValueCache, ...]


class UnitRows(hk.initializers.Initializer):
  """Random rows of q = 1: a table of embeddings.

  Example:
    >>> forward = hk.transform(lambda ids: hk.Embed(9, 16, w_init=tatnet.nets.UnitRows())(ids))
    >>> table = forward.init(jax.random.key(0), jnp.zeros(2, int))["embed"]["embeddings"]
    >>> bool(jnp.allclose((table**2).mean(1), 1, atol=1e-5))
    True
  """

  def __call__(self, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Draws a table inside `hk.transform`."""
    rows = jax.random.normal(hk.next_rng_key(), shape)
    return (rows * jax.lax.rsqrt(jnp.mean(rows**2, axis=-1, keepdims=True))).astype(dtype)


class TransformerBlock(hk.Module):
  """Attention, and a dense part; each with a shortcut if the plan has them.

  Args:
    plan: sizes, shortcuts and normalisation.
    activation: that of the dense part.
    start: how attention starts: see `ShapedAttention`.
    causal: whether tokens read none after them.
    query_scale: see `ShapedAttention`.
    name: name of the module.

  Example:
    >>> plan = tatnet.nets.TransformerPlan(depth=1, width=8, heads=2, context=6)
    >>> start = tatnet.nets.IdentityStart()
    >>> block = lambda x: tatnet.nets.TransformerBlock(plan, jnp.tanh, start, causal=True)(x)
    >>> x = jax.ShapeDtypeStruct((1, 6, 8), jnp.float32)
    >>> len(jax.eval_shape(hk.transform(block).init, jax.random.key(0), x))
    7
  """

  def __init__(
    self,
    plan: TransformerPlan,
    activation: Callable[[jax.Array], jax.Array],
    start: Start,
    *,
    causal: bool,
    query_scale: float = 0.0,
    name: str | None = "block",
  ):
    super().__init__(name=name)
    self.plan = plan
    self.activation = activation
    self.attention = {"heads": plan.heads, "start": start, "causal": causal}
    self.attention["query_scale"] = query_scale

  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, cache: KeyValueCache | None = None
  ) -> tuple[jax.Array, KeyValueCache | None]:
    """The block for tokens [batch, tokens, width]; the result, and the cache with them."""
    plan = self.plan
    y = ShapedAttention(**self.attention)(normalized(plan, x, "norm_1"), mask, cache)
    y, cache = y if cache is not None else (y, None)
    x = self._add(x, y)
    y = self.activation(
      dense(self.activation, plan.inner, normalized(plan, x, "norm_2"), "dense_1")
    )
    y = dense(self.activation, plan.width, y, "dense_2")
    return self._add(x, self.activation(y) if plan.nonlinear == 2 else y), cache

  @hk.transparent
  def _add(self, x: jax.Array, branch: jax.Array) -> jax.Array:
    weight, rest = residual_weights(self.plan.shortcut_weight)
    if weight == 0:
      return branch
    return x + branch if self.plan.shortcut_weight is None else weight * x + rest * branch


def dense(activation: Callable, size: int, x: jax.Array, name: str) -> jax.Array:
  """A dense layer; orthogonal where the activation is shaped."""
  w_init = (
    ScaledUniformOrthogonal() if isinstance(activation, TransformedActivation) else HeNormal()
  )
  return hk.Linear(size, w_init=w_init, name=name)(x)


def normalized(plan: TransformerPlan, x: jax.Array, name: str) -> jax.Array:
  """Layer normalisation, where the plan has it."""
  return x if plan.normalization is None else hk.LayerNorm(-1, True, True, name=name)(x)


class _Tower(hk.Module):
  """What transformers of tokens and of patches share: positions, blocks, and the last layer."""

  def __init__(
    self,
    plan: TransformerPlan,
    num_classes: int,
    *,
    activation: Callable[[jax.Array], jax.Array],
    attention: AttentionSchedule | Start,
    causal: bool,
    query_scale: float,
    name: str | None,
  ):
    super().__init__(name=name)
    kind = type(self).__name__
    self.plan = plan
    self.num_classes = check_count(kind, "num_classes", num_classes)
    if not callable(activation):
      raise TypeError(
        f"{kind} got activation={shown(activation)}; expected a function of arrays, such as the result"
        " of tatnet.transform_activation, or jax.nn.gelu."
      )
    self.activation, self.query_scale = activation, query_scale
    self.causal = check_causal(kind, causal)
    self.starts = _starts(kind, plan, attention, self.causal)
    _check_q(kind, attention, activation)

  @hk.transparent
  def _tokens(self, x: jax.Array, first: int | jax.Array = 0) -> jax.Array:
    """Tokens with their positions, each of q = 1: so is the sum."""
    shape = [self.plan.context, self.plan.width]
    table = hk.get_parameter("positions", shape, x.dtype, init=UnitRows())
    table = jax.lax.dynamic_slice_in_dim(table, first, x.shape[1])
    return (x + table) * 0.5**0.5

  @hk.transparent
  def _blocks(
    self, x: jax.Array, mask: jax.Array | None, caches: Caches | None
  ) -> tuple[jax.Array, Caches | None]:
    found = []
    for number, start in enumerate(self.starts):
      block = TransformerBlock(
        self.plan,
        self.activation,
        start,
        causal=self.causal,
        query_scale=self.query_scale,
        name=f"block_{number + 1}",
      )
      x, cache = block(x, mask, None if caches is None else caches[number])
      found.append(cache)
    return normalized(self.plan, x, "final_norm"), tuple(found) if caches is not None else None

  @hk.transparent
  def _logits(self, x: jax.Array) -> jax.Array:
    is_shaped = isinstance(self.activation, TransformedActivation)
    w_init = ScaledUniformOrthogonal() if is_shaped else None
    return hk.Linear(self.num_classes, w_init=w_init, name="logits")(x)

  def _check_length(self, tokens: int) -> None:
    if tokens > self.plan.context:
      raise ValueError(
        f"{type(self).__name__} got {tokens} tokens; expected at most context={self.plan.context}, for"
        " which it has positions."
      )


def _starts(kind: str, plan: TransformerPlan, attention, causal: bool) -> tuple[Start, ...]:
  if not isinstance(attention, AttentionSchedule):
    return (attention,) * plan.depth
  if len(attention) != plan.depth:
    raise ValueError(
      f"{kind} got a schedule of {len(attention)} attention layers for depth={plan.depth}; expected one"
      " for each block: plan it for the network's topology."
    )
  if attention.causal != causal:
    raise ValueError(
      f"{kind} got causal={causal} and a schedule with causal={attention.causal}; expected the same."
    )
  # A layer that moves nothing starts as the identity and learns.
  return tuple(IdentityStart() if layer.is_identity else layer for layer in attention.layers)


def _check_q(kind: str, attention, activation) -> None:
  """Raises where attention does not keep q = 1 and the activation is solved for nothing else."""
  if (
    isinstance(attention, AttentionSchedule)
    and not attention.keeps_q
    and isinstance(activation, TransformedActivation)
    and not isinstance(activation.maps.kernel, RectifierKernel)
  ):
    raise ValueError(
      f"{kind} got {activation!r} with attention that was planned alone: q grows between nonlinear"
      " layers, and this activation is solved for q = 1. Expected a schedule of"
      " tatnet.attention_schedule, which keeps q = 1; or a rectifier, whose map is the same at every q."
    )


class Transformer(_Tower):
  """A transformer of tokens: a decoder if it is causal, else an encoder of whole sequences.

  A token is its row of a table and that of its position, ``(e + p) / sqrt(2)``, each of q = 1. In
  each block attention and a dense part follow; no shortcuts and no normalisation by default. A
  decoder has logits for every token, an encoder for the mean of the tokens behind the last block.

  Args:
    depth: number of blocks.
    width: number of features of a token.
    heads: number of heads, which divides the width.
    num_classes: size of the output; of a decoder, the number of different tokens.
    context: the largest number of tokens.
    activation: that of the dense parts.
    attention: an `AttentionSchedule` of `depth` layers, or one start for all: see `ShapedAttention`.
    causal: True for a decoder, False for an encoder.
    vocabulary: number of different tokens; by default num_classes.
    query_scale: see `ShapedAttention`.
    name: name of the module.
    **blocks: `nonlinear`, `expansion`, `shortcut_weight` and `normalization` of `TransformerPlan`.

  Raises:
    TypeError: arguments of another kind.
    ValueError: sizes out of range, heads that do not divide the width, a schedule of other
      length or order; an activation that needs q = 1 with attention that does not keep it.

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322).

  Example:
    >>> topology = tatnet.nets.Transformer.topology(6, step=0.05)
    >>> act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.5))
    >>> schedule = tatnet.attention_schedule(topology, act)
    >>> network = hk.transform(
    ...   lambda ids: tatnet.nets.Transformer(
    ...     6, 32, 4, 100, context=64, activation=act, attention=schedule
    ...   )(ids)
    ... )
    >>> ids = jnp.zeros([2, 64], int)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), ids)
    >>> jax.eval_shape(network.apply, params, None, ids).shape
    (2, 64, 100)
  """

  def __init__(
    self,
    depth: int,
    width: int,
    heads: int,
    num_classes: int,
    *,
    context: int,
    activation: Callable[[jax.Array], jax.Array],
    attention: AttentionSchedule | Start,
    causal: bool = True,
    vocabulary: int | None = None,
    query_scale: float = 0.0,
    name: str | None = "transformer",
    **blocks,
  ):
    plan = TransformerPlan(depth=depth, width=width, heads=heads, context=context, **blocks)
    super().__init__(
      plan,
      num_classes,
      activation=activation,
      attention=attention,
      causal=causal,
      query_scale=query_scale,
      name=name,
    )
    self.vocabulary = num_classes if vocabulary is None else vocabulary
    check_count("Transformer", "vocabulary", self.vocabulary)

  @staticmethod
  def topology(
    depth: int, *, step: float = 0.0, nonlinear: int = 2, shortcut_weight: float = 0.0
  ) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return transformer_topology(depth, step, nonlinear=nonlinear, shortcut_weight=shortcut_weight)

  def __call__(
    self,
    tokens: jax.Array,
    is_training: bool = False,
    *,
    mask: jax.Array | None = None,
    caches: Caches | None = None,
  ) -> jax.Array | tuple[jax.Array, Caches]:
    """Logits of sequences.

    Args:
      tokens: integers [batch, tokens].
      is_training: as all networks take it; nothing depends on it here.
      mask: booleans, True where there is a token: [batch, tokens], or with caches [batch, tokens of
        the caches].
      caches: of each block, from `empty_caches` or from the call before; the tokens go on from them.

    Returns:
      For a decoder [batch, tokens, num_classes], for an encoder [batch, num_classes]; with caches
      the pair of them and the caches with the new tokens.

    Raises:
      ValueError: tokens of another rank or dtype, or more than the context.
    """
    del is_training
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(
        f"Transformer got tokens of shape {tokens.shape} and dtype {tokens.dtype}; expected integers"
        " [batch, tokens]."
      )
    self._check_length(tokens.shape[1])
    x = hk.Embed(self.vocabulary, self.plan.width, w_init=UnitRows(), name="tokens")(tokens)
    x = self._tokens(x, 0 if caches is None else caches[0].length)
    x, caches = self._blocks(x, mask, caches)
    if not self.causal:
      x = _mean(x, mask)
    logits = self._logits(x)
    return logits if caches is None else (logits, caches)

  def empty_caches(self, batch: int, dtype: jnp.dtype = jnp.float32) -> Caches:
    """Caches of all blocks for sequences of up to the context, with no tokens in them."""
    plan = self.plan
    size = plan.width // plan.heads
    empty = KeyValueCache.empty(batch, plan.context, plan.heads, size, dtype)
    return (empty,) * plan.depth


class VisionTransformer(_Tower):
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

  @staticmethod
  def topology(
    depth: int, *, step: float = 0.0, nonlinear: int = 2, shortcut_weight: float = 0.0
  ) -> Topology:
    """What `tatnet.trace` reads from the network; raises ValueError for ordinary sums."""
    return transformer_topology(depth, step, nonlinear=nonlinear, shortcut_weight=shortcut_weight)

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
    return self._logits(_mean(x, None))


def _mean(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Over the tokens that are there."""
  if mask is None:
    return x.mean(axis=1)
  there = mask[..., None].astype(x.dtype)
  return (x * there).sum(1) / jnp.maximum(there.sum(1), 1)
