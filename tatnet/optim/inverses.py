"""Inverses of damped averages: one layer after the other, or spread over devices."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg
import numpy as np

from tatnet.optim.symmetric import with_inverse


class Damped(NamedTuple):
  """Averages to be inverted after something is added to their diagonal.

  Attributes:
    packed: averages beside their last inverses, ``[n, n + 1]`` or ``[layers, n, n + 1]``;
      see `tatnet.optim.symmetric`.
    damping: a number above 0, or one for each layer.
  """

  packed: jax.Array
  damping: jax.Array


Sides = Mapping[str, Damped]  # what to invert of a layer, or of a stack of layers


class Inverted(NamedTuple):
  """Averages beside their new inverses.

  Attributes:
    packed: like those of the request, by side. A layer keeps its last inverses, on every
      side, where a new one is not finite: the sides were damped together.
    is_finite: whether all new inverses are.
  """

  packed: dict[str, jax.Array]
  is_finite: jax.Array


def damped_inverses(sides: Sides) -> Inverted:
  """``(average + damping I)^-1`` in the place of the last inverse, for each side of a layer.

  The layers of a stack take turns: on two cores, jaxlib 0.10 hangs when a program runs
  two LAPACK calls on stacks at the same time. And a pair that is read, inverted and
  written by itself stays in the cache.

  Args:
    sides: of a layer, or of a stack of layers, by name.

  Returns:
    The pairs with their new inverses.

  Example:
    >>> from tatnet.optim.inverses import Damped, damped_inverses
    >>> average = jnp.array([[3.0, 0, 0], [0, 1, 0]])  # and an inverse of zero
    >>> result = damped_inverses({"inputs": Damped(average, jnp.array(1.0))})
    >>> print(result.packed["inputs"].round(5), result.is_finite)
    [[3.   0.25 0.  ]
     [0.   1.   0.5 ]] True
  """
  packed = {side: damped.packed for side, damped in sides.items()}
  stack = next(iter(packed.values())).shape[:-2]
  if not stack:
    return _of_layer(sides)
  damping = {side: jnp.broadcast_to(damped.damping, stack) for side, damped in sides.items()}

  def turn(i, so_far: Inverted) -> Inverted:
    layer = {
      side: Damped(_at(pairs, i), _at(damping[side], i)) for side, pairs in so_far.packed.items()
    }
    new = _of_layer(layer)
    pairs = {
      side: jax.lax.dynamic_update_index_in_dim(so_far.packed[side], pair, i, 0)
      for side, pair in new.packed.items()
    }
    return Inverted(pairs, so_far.is_finite & new.is_finite)

  return jax.lax.fori_loop(0, stack[0], turn, Inverted(packed, jnp.ones([], bool)))


def _at(stack: jax.Array, i: jax.Array) -> jax.Array:
  return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def spread_inverses(requests: Mapping[str, Sides], mesh: jax.sharding.Mesh) -> dict[str, Inverted]:
  """What `damped_inverses` returns for many layers; each device inverts its share of them.

  Args:
    requests: sides by layer.
    mesh: devices to spread the layers over.

  Returns:
    Results by layer, on every device. `is_finite` is of all layers of the same shape.
  """
  alike: dict[tuple, list[str]] = {}
  for name, sides in requests.items():
    shape = tuple((side, damped.packed.shape[-2]) for side, damped in sides.items())
    alike.setdefault(shape, []).append(name)
  packed: dict[str, dict[str, jax.Array]] = {name: {} for name in requests}
  is_finite = {}
  for names in alike.values():
    stacks = [_as_stack(requests[name]) for name in names]
    together = _spread(jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks), mesh)
    for side, pairs in together.packed.items():
      ends = np.cumsum([len(stack[side].packed) for stack in stacks])
      for name, part in zip(names, jnp.split(pairs, ends[:-1]), strict=True):
        packed[name][side] = part.reshape(requests[name][side].packed.shape)
    is_finite |= dict.fromkeys(names, together.is_finite)
  return {name: Inverted(packed[name], is_finite[name]) for name in requests}


def _as_stack(sides: Sides) -> Sides:
  """A layer as a stack of one; a stack with a damping for each of its layers."""

  def stacked(packed: jax.Array, damping: jax.Array) -> Damped:
    damping = jnp.broadcast_to(damping, packed.shape[:-2])
    return Damped(packed.reshape(-1, *packed.shape[-2:]), damping.reshape(-1))

  return {side: stacked(*damped) for side, damped in sides.items()}


def _spread(stack: Sides, mesh: jax.sharding.Mesh) -> Inverted:
  """Each device inverts its share of a stack."""
  count = len(next(iter(stack.values())).packed)
  missing = -count % mesh.size

  def filled(packed: jax.Array, damping: jax.Array) -> Damped:
    filler = jnp.broadcast_to(jnp.eye(*packed.shape[1:]), (missing, *packed.shape[1:]))
    ones = jnp.ones(missing, damping.dtype)
    return Damped(
      jnp.concatenate([packed, filler.astype(packed.dtype)]), jnp.concatenate([damping, ones])
    )

  def share(stack: Sides) -> Inverted:
    packed, is_finite = damped_inverses(stack)
    return Inverted(packed, is_finite[None])

  shares = jax.P(mesh.axis_names)
  given = {side: filled(*damped) for side, damped in stack.items()}
  is_explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
  placed = jax.reshard if is_explicit else jax.lax.with_sharding_constraint
  found = jax.shard_map(share, mesh=mesh, in_specs=(shares,), out_specs=shares, check_vma=False)(
    placed(given, jax.sharding.NamedSharding(mesh, shares)) if is_explicit else given
  )
  packed, is_finite = placed(found, jax.sharding.NamedSharding(mesh, jax.P()))
  return Inverted({side: pairs[:count] for side, pairs in packed.items()}, is_finite.all())


# Under vmap (an ensemble of models) one after the other, for the same reason.
@jax.custom_batching.sequential_vmap
def _of_layer(sides: Sides) -> Inverted:
  new, is_finite = {}, jnp.ones([], bool)
  for side, (packed, damping) in sides.items():
    eye = jnp.eye(packed.shape[-2], dtype=packed.dtype)
    # Cholesky reads the average's triangle, and nothing of the inverse beside it.
    factor = jax.lax.linalg.cholesky(packed[:, :-1] + damping * eye, symmetrize_input=False)
    inverse = jax.scipy.linalg.cho_solve((factor, True), eye)
    new[side] = with_inverse(packed, inverse)
    # What goes wrong on the way reaches the last pivot: a factorisation that fails is NaN
    # throughout, and a number that is not finite spreads over the rows below it. (For
    # another entry to overflow, the damping would have to be below 1e-38.)
    is_finite &= jnp.isfinite(inverse[-1, -1])
  kept = {side: jnp.where(is_finite, new[side], damped.packed) for side, damped in sides.items()}
  return Inverted(kept, is_finite)
