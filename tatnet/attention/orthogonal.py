"""Attention by an orthogonal matrix: the exponential of skew logits."""

import math

import jax
import jax.numpy as jnp

from tatnet.attention.arrays import check_arrays, check_reading


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
  check_arrays("orthogonal_attention", queries, keys, values, mask)
  check_reading("orthogonal_attention", queries, keys, False, 0)
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
