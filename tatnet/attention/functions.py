"""Attention as functions of arrays, for models of any library.

All take queries, keys and values ``[batch, tokens, heads, size]`` and return what values are.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

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
  _check_arrays("planned_attention", queries, keys, values, mask)
  if layer.is_identity:
    raise ValueError(
      f"planned_attention got {layer!r}, which starts as the identity, by logits of -inf elsewhere: no"
      " token would ever attend to another. Expected a step above 0; take shaped_attention for"
      " attention that starts as the identity and learns."
    )
  _check_reading("planned_attention", queries, keys, layer.causal, first)

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
  _check_arrays("shaped_attention", queries, keys, values, mask)
  _check_reading("shaped_attention", queries, keys, causal, first)
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


def orthogonal_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  *,
  strength: float = 1.0,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Attention by an orthogonal matrix: ``expm(strength / sqrt(size) (Q K' - K Q')) V``.

  It keeps the spectrum of the kernel over tokens, whatever queries and keys are; single
  q values it does not keep. Tokens read those after them. The exponential is taken in the
  space of queries and keys, of ``2 size`` dimensions.

  Args:
    queries: float array [batch, tokens, heads, size].
    keys: float array like queries.
    values: float array like queries.
    strength: factor on the logits.
    mask: booleans [batch, tokens], True where there is a token; the others are left alone.

  Returns:
    An array like values.

  Raises:
    ValueError: arrays of the wrong shapes.
    TypeError: mask is not of booleans.

  Reference:
    Orthogonal self-attention (2026); the low-rank form is derived in the page on the theory of
    attention.

  Example:
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 6, 1, 4))
    >>> out = tatnet.attention.orthogonal_attention(q, k, v)
    >>> norms = jnp.linalg.norm(jnp.stack([v, out]), axis=(2, 4)).squeeze()
    >>> bool(jnp.allclose(norms[0], norms[1], rtol=1e-4))
    True
  """
  _check_arrays("orthogonal_attention", queries, keys, values, mask)
  _check_reading("orthogonal_attention", queries, keys, False, 0)
  wide = jnp.promote_types(values.dtype, jnp.float32)
  if mask is not None:
    queries, keys = (jnp.where(mask[..., None, None], a, 0) for a in (queries, keys))
  queries, keys = queries.astype(wide), keys.astype(wide)
  both = jnp.concatenate([queries, keys], axis=-1)  # U of expm(U W U') = I + U phi(W U'U) W U'
  turned = jnp.concatenate([keys, -queries], axis=-1)  # U W'
  gain = strength / math.sqrt(queries.shape[-1])
  small = gain * jnp.einsum("bthi,bthj->bhij", turned, both, precision="highest")
  read = gain * jnp.einsum("bthi,bthd->bhid", turned, values.astype(wide), precision="highest")
  moved = jnp.matmul(_phi(small), read, precision="highest")
  moved = jnp.einsum("bthi,bhid->bthd", both, moved, precision="highest")
  return (values + moved).astype(values.dtype)


_SQUARINGS, _TERMS = 12, 12


def _phi(matrix: jax.Array) -> jax.Array:
  """``(expm(M) - 1) / M`` by its series at a fraction of M, and doubling."""
  # Matrix products alone: jaxlib 0.10 on two cores hangs in two stacks of factorisations.
  norm = jnp.abs(matrix).sum(-1).max(-1)
  halvings = jnp.clip(jnp.ceil(jnp.log2(jnp.maximum(norm, 1e-30))), 0, _SQUARINGS)
  fraction = matrix * (2.0**-halvings)[..., None, None]
  one = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
  phi = one
  for n in range(_TERMS, 1, -1):
    phi = one + jnp.matmul(fraction, phi, precision="highest") / n
  exponential = one + jnp.matmul(fraction, phi, precision="highest")

  def doubled(i, both):
    phi, exponential = both
    again = (i < halvings)[..., None, None]
    more = (phi + jnp.matmul(exponential, phi, precision="highest")) / 2
    squared = jnp.matmul(exponential, exponential, precision="highest")
    return jnp.where(again, more, phi), jnp.where(again, squared, exponential)

  return jax.lax.fori_loop(0, _SQUARINGS, doubled, (phi, exponential))[0]


def _over_batch(matrix: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.broadcast_to(matrix, (values.shape[0], *matrix.shape[1:]))


def _kept(out: jax.Array, mask: jax.Array, first: int | jax.Array) -> jax.Array:
  """Zeros for tokens that are missing."""
  own = jax.lax.dynamic_slice_in_dim(mask, first, out.shape[1], axis=1)
  return jnp.where(own[:, :, None, None], out, 0)


def _check_arrays(name: str, queries, keys, values, mask) -> None:
  shapes = [jnp.shape(array) for array in (queries, keys, values)]
  fits = [len(shape) == 4 for shape in shapes]
  if all(fits):
    (batch, _, heads, size), key_shape, value_shape = shapes
    fits = [
      key_shape[0] == batch,
      key_shape[2:] == (heads, size),
      value_shape[:3] == key_shape[:3],
    ]
  if not all(fits):
    raise ValueError(
      f"{name} got queries, keys and values of shapes {', '.join(map(str, shapes))}; expected arrays"
      " [batch, tokens, heads, size], keys and values of as many tokens."
    )
  if mask is None:
    return
  if jnp.result_type(mask) != jnp.bool_:
    raise TypeError(
      f"{name} got a mask of dtype {jnp.result_type(mask)}; expected booleans, True where there is a"
      " token: lengths[:, None] > jnp.arange(tokens)."
    )
  if jnp.shape(mask) != shapes[1][:2]:
    raise ValueError(
      f"{name} got a mask of shape {jnp.shape(mask)}; expected [batch, read tokens], here"
      f" {shapes[1][:2]}. Whether tokens read those after them is said by the schedule, or by"
      " causal."
    )


def _check_reading(name: str, queries, keys, causal: bool, first) -> None:
  reading, read = queries.shape[1], keys.shape[1]
  starts = isinstance(first, int)
  whole = starts and first == 0 and reading == read
  if whole or (causal and not (starts and not 0 <= first <= read - reading)):
    return
  expected = "as many" if not causal else "read tokens that end with the reading ones, or go on"
  raise ValueError(
    f"{name} got {reading} reading and {read} read tokens and first={first}; expected {expected}."
  )
