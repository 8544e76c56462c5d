"""Inverses of damped averages: one matrix at a time, or spread over devices."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg

from tatnet.optim.symmetric import trace, with_inverse


class Damped(NamedTuple):
  """Averages to be inverted after something is added to their diagonal.

  Attributes:
    packed: averages beside their last inverses, ``[n, n + 1]`` or ``[layers, n, n + 1]``;
      see `tatnet.optim.symmetric`.
    damping: a number above 0, or one for each layer.
  """

  packed: jax.Array
  damping: jax.Array


class Inverted(NamedTuple):
  """Averages beside their new inverses.

  Attributes:
    packed: like those of the request.
    is_finite: whether an inverse is, for each layer.
  """

  packed: jax.Array
  is_finite: jax.Array


def damped_inverse(packed: jax.Array, damping: jax.Array) -> Inverted:
  """``(average + damping I)^-1`` in the place of the last inverse.

  Stacks are inverted in a loop: on two cores, jaxlib 0.10 hangs when a program runs
  two LAPACK calls on stacks at the same time. And a pair that is read, inverted and
  written by itself stays in the cache.

  Args:
    packed: ``[n, n + 1]`` or ``[layers, n, n + 1]``.
    damping: a number, or one for each layer; above 0.

  Returns:
    The pairs with their new inverses, finite or not.

  Example:
    >>> from tatnet.optim.inverses import damped_inverse
    >>> average = jnp.array([[3.0, 0, 0], [0, 1, 0]])  # and an inverse of zero
    >>> result = damped_inverse(average, jnp.array(1.0))
    >>> print(result.packed.round(5), result.is_finite)
    [[3.   0.25 0.  ]
     [0.   1.   0.5 ]] True
  """
  if packed.ndim == 2:
    return _one(packed, damping)
  damping = jnp.broadcast_to(damping, packed.shape[:-2])
  return jax.lax.map(lambda pair: _one(*pair), (packed, damping))


def damped_inverses(
  requests: Sequence[Damped], mesh: jax.sharding.Mesh | None = None
) -> list[Inverted]:
  """Inverses of many stacks of averages, each in the place of the last one.

  Args:
    requests: what to invert.
    mesh: devices to spread the matrices over; None inverts all of them on each.

  Returns:
    What `damped_inverse` returns, in the order of the requests.
  """
  if mesh is None:
    return [damped_inverse(*request) for request in requests]
  results: list[Inverted | None] = [None] * len(requests)
  for n in {request.packed.shape[-2] for request in requests}:
    members = [i for i, request in enumerate(requests) if request.packed.shape[-2] == n]
    stacks = [requests[i].packed.reshape(-1, n, n + 1) for i in members]
    dampings = [
      jnp.broadcast_to(requests[i].damping, requests[i].packed.shape[:-2]).reshape(-1)
      for i in members
    ]
    together = _spread(jnp.concatenate(stacks), jnp.concatenate(dampings), mesh)
    start = 0
    for i, stack in zip(members, stacks, strict=True):
      packed, is_finite = (array[start : start + len(stack)] for array in together)
      shape = requests[i].packed.shape
      results[i] = Inverted(packed.reshape(shape), is_finite.reshape(shape[:-2]))
      start += len(stack)
  return results


def _spread(packed: jax.Array, damping: jax.Array, mesh: jax.sharding.Mesh) -> Inverted:
  """Each device inverts its share of the matrices."""
  count, n = packed.shape[:2]
  missing = -count % mesh.size
  filler = jnp.broadcast_to(jnp.eye(n, n + 1, dtype=packed.dtype), (missing, n, n + 1))
  packed = jnp.concatenate([packed, filler])
  damping = jnp.concatenate([damping, jnp.ones(missing, damping.dtype)])
  shares = jax.P(mesh.axis_names)
  found = jax.shard_map(
    damped_inverse, mesh=mesh, in_specs=(shares, shares), out_specs=shares, check_vma=False
  )(packed, damping)
  everywhere = jax.sharding.NamedSharding(mesh, jax.P())
  return jax.tree.map(
    lambda array: jax.lax.with_sharding_constraint(array, everywhere)[:count], found
  )


# Under vmap (an ensemble of models) one after the other, for the same reason.
@jax.custom_batching.sequential_vmap
def _one(packed: jax.Array, damping: jax.Array) -> Inverted:
  eye = jnp.eye(packed.shape[-2], dtype=packed.dtype)
  # Cholesky reads the average's triangle, and nothing of the inverse beside it.
  factor = jax.lax.linalg.cholesky(packed[:, :-1] + damping * eye, symmetrize_input=False)
  inverse = jax.scipy.linalg.cho_solve((factor, True), eye)
  return Inverted(with_inverse(packed, inverse), jnp.isfinite(trace(inverse)))
