"""Attention as functions of arrays, for models of any library.

All take queries, keys and values ``[batch, tokens, heads, size]`` and return what values are.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.attention.arrays import check_arrays, check_reading
from tatnet.attention.bias import NEVER, Rule, logits_bias, rule_of, tabulated
from tatnet.attention.layer import AttentionLayer
from tatnet.layer.fields import shown

# trace knows these by the names of the calls.
PLANNED, SHAPED = "tatnet_planned_attention", "tatnet_shaped_attention"


def planned_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  layer: AttentionLayer,
  *,
  mask: jax.Array | None = None,
  first: int | jax.Array = 0,
) -> jax.Array:
  """Softmax attention that starts as a layer of a schedule.

  ``diag(row_scale) softmax(Q K' / sqrt(size) + log_attention) V``: with queries of zero
  exactly the matrix of the schedule. It runs as `jax.nn.dot_product_attention` with a bias; the
  numbers of a causal or uniform layer take memory in proportion to the tokens.

  Where tokens are missing, those that are there count as a sequence of their own: its matrix is
  that of the schedule for their number and their order.

  Args:
    queries: float array [batch, reading tokens, heads, size].
    keys: float array [batch, read tokens, heads, size].
    values: float array like keys.
    layer: one layer of an `AttentionSchedule`: ``schedule[l]``.
    mask: booleans [batch, read tokens], True where there is a token. The output is 0 for those
      that are missing.
    first: which of the read tokens the first reading token is, where earlier ones were kept
      from before; for a causal layer.

  Returns:
    An array like queries.

  Raises:
    ValueError: arrays of the wrong shapes; a layer of step 0, which would never attend to
      another token; fewer reading than read tokens without the order of tokens; a mask for
      symmetric roots.
    TypeError: layer is none of a schedule, or mask is not of booleans.

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322).

  Example:
    >>> layer = tatnet.attention.UniformLayer(0.0, 0.2)
    >>> values = jax.random.normal(jax.random.key(0), (1, 6, 2, 4))
    >>> out = tatnet.attention.planned_attention(jnp.zeros_like(values), values, values, layer)
    >>> expected = jnp.einsum("ij,bjhd->bihd", layer.as_matrix(6), values)
    >>> bool(jnp.allclose(out, expected, atol=1e-5))
    True
  """
  if not isinstance(layer, AttentionLayer):
    raise TypeError(
      f"planned_attention got layer={shown(layer)}; expected a layer of a schedule: schedule[0]."
    )
  check_arrays("planned_attention", queries, keys, values, mask)
  if layer.is_identity:
    raise ValueError(
      f"planned_attention got {layer!r}, which starts as the identity, by logits of -inf elsewhere: no"
      " token would ever attend to another. Expected a step above 0; take shaped_attention for"
      " attention that starts as the identity and learns."
    )
  check_reading("planned_attention", queries, keys, layer.causal, first)

  rule, numbers = rule_of(layer, keys.shape[1])
  if rule is tabulated and mask is not None:
    raise ValueError(
      f"planned_attention got a mask and {layer!r}, whose symmetric roots are for sequences of one"
      " length; expected no mask. Take a causal layer, or a uniform one, which know what to do"
      " where tokens are missing."
    )
  # The step tells trace what the bias says.
  step = np.float64(getattr(layer, "step", math.nan))
  return _planned_call(rule)(numbers, mask, jnp.int32(first), queries, keys, values, step)


@functools.cache
def _planned_call(rule: Rule) -> Callable[..., jax.Array]:
  """The program of all layers of a kind, so that many are traced and compiled like one."""

  def attend(numbers, mask, first, queries, keys, values, step):
    del step
    bias, scale = logits_bias(rule, numbers, queries.shape[1], keys.shape[1], mask, first)
    out = jax.nn.dot_product_attention(queries, keys, values, bias[:, None])
    out = out * scale[..., None, None].astype(out.dtype)
    return out if mask is None else _kept(out, mask, first)

  attend.__name__ = PLANNED
  return jax.jit(attend)


def shaped_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  identity_gain: jax.Array,
  attention_gain: jax.Array,
  centre_gain: jax.Array | None = None,
  *,
  causal: bool,
  mask: jax.Array | None = None,
  first: int | jax.Array = 0,
) -> jax.Array:
  """Attention that starts as the identity: shaped attention, or Value-SkipInit.

  ``alpha V + beta softmax(Q K' / sqrt(size)) V - gamma C V`` with C the softmax of logits that are
  zero. With queries of zero and ``alpha = beta = gamma = 1`` it starts as the identity (shaped
  attention); without the last term and with ``beta = 0`` as well (Value-SkipInit).

  Args:
    queries: float array [batch, reading tokens, heads, size].
    keys: float array [batch, read tokens, heads, size].
    values: float array like keys.
    identity_gain: alpha of each head, shape [heads].
    attention_gain: beta of each head, shape [heads].
    centre_gain: gamma of each head, shape [heads]; None for Value-SkipInit.
    causal: whether tokens read none after them.
    mask: booleans [batch, read tokens], True where there is a token. The output is 0 for those
      that are missing.
    first: which of the read tokens the first reading token is, where earlier ones were kept
      from before; if causal.

  Returns:
    An array like queries.

  Raises:
    ValueError: arrays of the wrong shapes; fewer reading than read tokens without the order of
      tokens.
    TypeError: mask is not of booleans.

  Reference:
    He & Hofmann, Simplifying Transformer Blocks (arXiv 2311.01906), shaped attention; He et al.
    (arXiv 2302.10322), Value-SkipInit.

  Example:
    >>> values = jax.random.normal(jax.random.key(0), (1, 6, 2, 4))
    >>> one = jnp.ones(2)
    >>> out = tatnet.attention.shaped_attention(
    ...   jnp.zeros_like(values), values, values, one, one, one, causal=True
    ... )
    >>> bool(jnp.allclose(out, values, atol=1e-6))
    True
  """
  check_arrays("shaped_attention", queries, keys, values, mask)
  check_reading("shaped_attention", queries, keys, causal, first)
  gains = [identity_gain, attention_gain] + ([] if centre_gain is None else [centre_gain])
  for gain in gains:
    if jnp.shape(gain) != (values.shape[2],):
      raise ValueError(
        f"shaped_attention got gains of shape {jnp.shape(gain)}; expected one for each head, of"
        f" shape ({values.shape[2]},)."
      )

  return _shaped_call(causal)(mask, jnp.int32(first), queries, keys, values, *gains)


@functools.cache
def _shaped_call(causal: bool) -> Callable[..., jax.Array]:
  """The program of all layers."""

  def attend(mask, first, queries, keys, values, *gains):
    reading, read = queries.shape[1], keys.shape[1]
    alpha, beta, *gamma = (gain.astype(values.dtype)[:, None] for gain in gains)
    there = jnp.ones([1, read], bool) if mask is None else mask
    seen = there[:, None, :]
    if causal:
      places = jnp.arange(read)
      own = jax.lax.dynamic_slice_in_dim(places, first, reading)
      seen = seen & (places[None, :] <= own[:, None])
    seen = jnp.broadcast_to(seen, (seen.shape[0], reading, read))
    out = alpha * jax.lax.dynamic_slice_in_dim(values, first, reading, axis=1)
    out += beta * jax.nn.dot_product_attention(
      queries, keys, values, jnp.where(seen, 0.0, NEVER)[:, None].astype(jnp.float32)
    )
    if gamma:
      count = jnp.maximum(seen.sum(-1, keepdims=True), 1)
      centre = _over_batch((seen / count).astype(values.dtype), values)
      out -= gamma[0] * jnp.einsum("bij,bjhd->bihd", centre, values)
    return out if mask is None else _kept(out, mask, first)

  attend.__name__ = SHAPED
  return jax.jit(attend)


def _over_batch(matrix: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.broadcast_to(matrix, (values.shape[0], *matrix.shape[1:]))


def _kept(out: jax.Array, mask: jax.Array, first: int | jax.Array) -> jax.Array:
  """Zeros for tokens that are missing."""
  own = jax.lax.dynamic_slice_in_dim(mask, first, out.shape[1], axis=1)
  return jnp.where(own[:, :, None, None], out, 0)
