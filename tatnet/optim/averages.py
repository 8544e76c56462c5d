"""Averages of factors, and the inverses made from them, of all layers."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tatnet.optim.groups import ByLayer, Group
from tatnet.optim.inverses import damped_inverses, spread_inverses


def absorbed(
  groups: Mapping[str, Group],
  curvature: ByLayer,
  weight: jax.Array,
  factors: ByLayer,
  rate: jax.Array,
  is_used: jax.Array,
) -> dict[str, dict[str, jax.Array]]:
  """Averages with a batch's factors in them, where these are used.

  A choice for each number: it costs less than the copy that `lax.cond` makes.
  """
  weight = jnp.where(is_used, weight, 1.0)
  result = dict(curvature)
  for key, group in groups.items():
    new = jax.tree.map(lambda f: f / weight.astype(f.dtype), factors[key])
    moved = group.block.averaged(curvature[key], new, rate.astype(jax.tree.leaves(new)[0].dtype))
    result[key] = jax.tree.map(
      lambda new, old: jnp.where(is_used, new, old), moved, dict(curvature[key])
    )
  return result


def inverted(
  groups: Mapping[str, Group],
  curvature: ByLayer,
  damping: jax.Array,
  mesh: jax.sharding.Mesh | None,
) -> tuple[dict[str, dict[str, jax.Array]], jax.Array]:
  """The curvature with new inverses, and whether all of these are finite."""
  requests = {key: group.block.damped(curvature[key], damping) for key, group in groups.items()}
  requests = {key: sides for key, sides in requests.items() if sides}
  if mesh is None:
    new = {key: damped_inverses(sides) for key, sides in requests.items()}
  else:
    new = spread_inverses(requests, mesh)
  result, is_finite = dict(curvature), jnp.ones([], bool)
  for key, found in new.items():
    result[key] = {**curvature[key], **found.packed}
    is_finite &= found.is_finite
  return result, is_finite


def trace_of(groups: Mapping[str, Group], curvature: ByLayer) -> jax.Array:
  """Of the averaged curvature of all layers."""
  return sum(group.block.trace(curvature[key]) for key, group in groups.items())


def rate_of(decay: jax.Array | float, batches: jax.Array) -> jax.Array:
  """Weight of a new batch in the averages: 1 for the first, ``1 - decay`` in the long run."""
  # 1 - decay ** n as expm1, and the logarithm in full precision where it can be had: a
  # decay close to 1 cancels.
  log = math.log(decay) if isinstance(decay, float) and decay else jnp.log(decay)
  return (1 - decay) / -jnp.expm1((batches + 1) * log)
