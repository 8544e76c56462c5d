"""Transformers of tokens: decoders and encoders."""

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count
from tatnet.attention.schedule import AttentionSchedule
from tatnet.nets.attention import KeyValueCache, Start
from tatnet.nets.tower import Caches, Tower, mean_of_tokens
from tatnet.nets.transformer_block import UnitRows
from tatnet.nets.transformer_plan import TransformerPlan, transformer_topology


class Transformer(Tower):
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

  topology = staticmethod(transformer_topology)

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
      x = mean_of_tokens(x, mask)
    logits = self._logits(x)
    return logits if caches is None else (logits, caches)

  def empty_caches(self, batch: int, dtype: jnp.dtype = jnp.float32) -> Caches:
    """Caches of all blocks for sequences of up to the context, with no tokens in them."""
    plan = self.plan
    size = plan.width // plan.heads
    empty = KeyValueCache.empty(batch, plan.context, plan.heads, size, dtype)
    return (empty,) * plan.depth
