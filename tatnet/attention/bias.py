"""The bias of a planned layer for a program: from vectors, so that it is of any length."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.attention.layer import AttentionLayer
from tatnet.attention.uniform import UniformLayer

# A logit that no other outweighs, and whose differences are finite numbers.
NEVER = -1e30


# (numbers, own position, other position, tokens that there are) -> (bias, row scale)
Rule = Callable[..., tuple[jax.Array, jax.Array]]


def rule_of(layer: AttentionLayer, read: int) -> tuple[Rule, tuple[np.ndarray, ...]]:
  """How a layer's bias is made, and the float32 numbers of which: layers of a kind share a program.

  Args:
    layer: how attention starts.
    read: number of read tokens.
  """
  if isinstance(layer, UniformLayer):
    rule = _causal if layer.causal else _all_alike
    numbers = tuple(layer.vectors(read))
  elif layer.causal:
    rule, slope = _exponential, layer.after
    logs = (slope, math.log(layer.own), math.log(layer.others), math.log(layer.first))
    numbers = (layer.row_scale(read), *logs)
  else:
    rule = tabulated
    numbers = (np.maximum(layer.log_attention(read), NEVER), layer.row_scale(read))
  return rule, tuple(np.asarray(number, np.float32) for number in numbers)


def logits_bias(
  rule: Rule,
  numbers: tuple[jax.Array, ...],
  reading: int,
  read: int,
  mask: jax.Array | None,
  first: int | jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """What is added to the logits, and what the output is multiplied by.

  Args:
    rule: as `rule_of` says.
    numbers: those of the layer.
    reading: number of reading tokens.
    read: number of read tokens.
    mask: booleans [batch, read], True where there is a token; or None.
    first: which of the read tokens the first reading one is.

  Returns:
    Float32 arrays [batch, reading, read] and [batch, reading], the batch 1 without a mask.
  """
  position = jnp.arange(read)[None] if mask is None else jnp.cumsum(mask, axis=1) - 1
  own = jax.lax.dynamic_slice_in_dim(position, first, reading, axis=1)[:, :, None]
  count = jnp.full([1], read) if mask is None else mask.sum(axis=1)
  # The compiler would make whole tables of numbers that it knows.
  numbers = jax.lax.optimization_barrier(numbers)
  bias, scale = rule(numbers, own, position[:, None, :], count)
  if mask is not None:
    bias = jnp.where(mask[:, None, :], bias, NEVER)
  return bias, scale


def _causal(numbers, own, other, count):
  del count
  columns, rows, diagonal, scale = numbers
  entries = columns[other] - rows[own]
  smallest = np.finfo(np.float32).tiny
  logs = jnp.log(jnp.where(other < own, entries, diagonal[own]).clip(smallest))
  return jnp.where(other <= own, logs, NEVER), scale[own[..., 0]]


def _all_alike(numbers, own, other, count):
  shared, _, diagonal, scale = (array[count - 1] for array in numbers)
  bias = jnp.where(own == other, jnp.log(diagonal)[:, None, None], jnp.log(shared)[:, None, None])
  return bias, jnp.broadcast_to(scale[:, None], bias.shape[:2])


def _exponential(numbers, own, other, count):
  del count
  scale, slope, log_own, log_others, log_first = numbers
  distance = (own - other - 1).astype(jnp.float32)
  gain = jnp.where(other == 0, log_first, log_others)
  bonus = jnp.where(own == 0, 0.0, log_own)
  logs = jnp.where(other == own, bonus, gain - slope * distance)
  return jnp.where(other <= own, logs, NEVER), scale[own[..., 0]]


def tabulated(numbers, own, other, count):
  """The bias of symmetric roots, which is a table of one length."""
  del own, other, count
  logs, scale = numbers
  return logs[None], scale[None]
