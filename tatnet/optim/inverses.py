"""Inverses of damped factors: one matrix at a time, or spread over devices."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg


class Damped(NamedTuple):
  """Matrices to be inverted after something is added to their diagonal.

  Attributes:
    matrices: symmetric and positive, ``[n, n]`` or ``[layers, n, n]``.
    damping: a number above 0, or one for each layer.
  """

  matrices: jax.Array
  damping: jax.Array


def damped_inverse(matrices: jax.Array, damping: jax.Array) -> jax.Array:
  """``(matrix + damping I)^-1`` of symmetric positive matrices.

  Stacks are inverted in a loop: on two cores, jaxlib 0.10 hangs when a program runs
  two LAPACK calls on stacks at the same time.

  Args:
    matrices: ``[n, n]`` or ``[layers, n, n]``.
    damping: a number, or one for each layer; above 0.

  Returns:
    Symmetric matrices of the same shape.

  Example:
    >>> from tatnet.optim.inverses import damped_inverse
    >>> print(damped_inverse(jnp.array([[3.0, 0], [0, 1]]), jnp.array(1.0)).round(5))
    [[0.25 0.  ]
     [0.   0.5 ]]
  """
  if matrices.ndim == 2:
    return _one(matrices, damping)
  damping = jnp.broadcast_to(damping, matrices.shape[:-2])
  return jax.lax.map(lambda pair: _one(*pair), (matrices, damping))


def damped_inverses(
  requests: Sequence[Damped], mesh: jax.sharding.Mesh | None = None
) -> list[jax.Array]:
  """Inverses of many stacks of matrices.

  Args:
    requests: what to invert.
    mesh: devices to spread the matrices over; None inverts all of them on each.

  Returns:
    The inverses in the order of the requests.
  """
  if mesh is None:
    return [damped_inverse(*request) for request in requests]
  results: list[jax.Array | None] = [None] * len(requests)
  for n in {request.matrices.shape[-1] for request in requests}:
    members = [i for i, request in enumerate(requests) if request.matrices.shape[-1] == n]
    stacks = [requests[i].matrices.reshape(-1, n, n) for i in members]
    dampings = [
      jnp.broadcast_to(requests[i].damping, requests[i].matrices.shape[:-2]).reshape(-1)
      for i in members
    ]
    inverses = _spread(jnp.concatenate(stacks), jnp.concatenate(dampings), mesh)
    start = 0
    for i, stack in zip(members, stacks, strict=True):
      results[i] = inverses[start : start + len(stack)].reshape(requests[i].matrices.shape)
      start += len(stack)
  return results


def _spread(matrices: jax.Array, damping: jax.Array, mesh: jax.sharding.Mesh) -> jax.Array:
  """Each device inverts its share of the matrices."""
  count, n = matrices.shape[:2]
  missing = -count % mesh.size
  filler = jnp.broadcast_to(jnp.eye(n, dtype=matrices.dtype), (missing, n, n))
  matrices = jnp.concatenate([matrices, filler])
  damping = jnp.concatenate([damping, jnp.ones(missing, damping.dtype)])
  shares = jax.P(mesh.axis_names)
  inverted = jax.shard_map(
    damped_inverse, mesh=mesh, in_specs=(shares, shares), out_specs=shares, check_vma=False
  )(matrices, damping)
  everywhere = jax.sharding.NamedSharding(mesh, jax.P())
  return jax.lax.with_sharding_constraint(inverted, everywhere)[:count]


# Under vmap (an ensemble of models) one after the other, for the same reason.
@jax.custom_batching.sequential_vmap
def _one(matrix: jax.Array, damping: jax.Array) -> jax.Array:
  eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
  factor = jax.scipy.linalg.cho_factor(matrix + damping * eye, lower=True)
  inverse = jax.scipy.linalg.cho_solve(factor, eye)
  return (inverse + inverse.T) / 2
