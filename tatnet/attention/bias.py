"""The bias of a planned layer for a program: from vectors, so that it is of any length."""

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.attention.exponential import ExponentialLayer
from tatnet.attention.layer import AttentionLayer
from tatnet.attention.uniform import UniformLayer

# A logit that no other outweighs, and whose differences are finite numbers.
NEVER = -1e30


def logits_bias(
  layer: AttentionLayer,
  reading: int,
  read: int,
  mask: jax.Array | None,
  first: int | jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """What is added to the logits, and what the output is multiplied by.

  Args:
    layer: how attention starts.
    reading: number of reading tokens.
    read: number of read tokens.
    mask: booleans [batch, read], True where there is a token; or None.
    first: which of the read tokens the first reading one is.

  Returns:
    Float32 arrays [batch, reading, read] and [batch, reading], the batch 1 without a mask.
  """
  position = jnp.arange(read)[None] if mask is None else jnp.cumsum(mask, axis=1) - 1
  own = jax.lax.dynamic_slice_in_dim(position, first, reading, axis=1)[:, :, None]
  other = position[:, None, :]
  count = jnp.full([1], read) if mask is None else mask.sum(axis=1)
  if isinstance(layer, UniformLayer):
    make = _causal if layer.causal else _all_alike
  else:
    make = _exponential if layer.causal else _tabulated
  if make is _tabulated and mask is not None:
    raise ValueError(
      f"planned_attention got a mask and {layer!r}, whose symmetric roots are for sequences of one"
      " length; expected no mask. Take a causal layer, or a uniform one, which know what to do"
      " where tokens are missing."
    )
  bias, scale = make(layer, read, own, other, count)
  if mask is not None:
    bias = jnp.where(mask[:, None, :], bias, NEVER)
  return bias, scale


def _constants(*arrays: np.ndarray) -> list[jax.Array]:
  """Numbers of the program that the compiler leaves alone: tables of them it would make itself."""
  return jax.lax.optimization_barrier([jnp.asarray(a, jnp.float32) for a in arrays])


def _causal(layer: UniformLayer, read: int, own, other, count):
  del count
  columns, rows, diagonal, scale = _constants(*layer.vectors(read))
  entries = columns[other] - rows[own]
  smallest = np.finfo(np.float32).tiny
  logs = jnp.log(jnp.where(other < own, entries, diagonal[own]).clip(smallest))
  return jnp.where(other <= own, logs, NEVER), scale[own[..., 0]]


def _all_alike(layer: UniformLayer, read: int, own, other, count):
  shared, _, diagonal, scale = (a[count - 1] for a in _constants(*layer.vectors(read)))
  bias = jnp.where(own == other, jnp.log(diagonal)[:, None, None], jnp.log(shared)[:, None, None])
  return bias, jnp.broadcast_to(scale[:, None], bias.shape[:2])


def _exponential(layer: ExponentialLayer, read: int, own, other, count):
  del count
  (scale,) = _constants(layer.row_scale(read))
  distance = (own - other - 1).astype(jnp.float32)
  gain = jnp.where(other == 0, np.log(layer.first), np.log(layer.others))
  bonus = jnp.where(own == 0, 0.0, np.log(layer.own))
  logs = jnp.where(other == own, bonus, gain - layer.after * distance)
  return jnp.where(other <= own, logs, NEVER).astype(jnp.float32), scale[own[..., 0]]


def _tabulated(layer: ExponentialLayer, read: int, own, other, count):
  del own, other, count
  logs, scale = _constants(np.maximum(layer.log_attention(read), NEVER), layer.row_scale(read))
  return logs[None], scale[None]
