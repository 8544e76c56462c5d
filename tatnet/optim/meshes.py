"""Arrays on the meshes of JAX: explicit axes, and what varies inside a shard_map."""

from collections.abc import Callable
from typing import Any

import jax


def varying_like(inputs: Any, tree: Any) -> Any:
  """A tree that varies over the devices of a shard_map wherever the inputs do.

  Gradients of it are then those of a device's own examples, whatever `check_vma` says,
  and not already summed over devices.
  """
  axes = frozenset().union(
    *(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(inputs))
  )

  def cast(leaf: jax.Array) -> jax.Array:
    missing = tuple(sorted(axes - jax.typeof(leaf).manual_axis_type.varying))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

  return jax.tree.map(cast, tree) if axes else tree


def without_explicit_axes(function: Callable[..., Any], *seen: jax.Array) -> Any:
  """``function(*seen)``, sharded by the compiler; its results are on every device.

  A product over the examples is ambiguous where they lie on an explicit axis.
  """
  for x in seen:
    mesh = jax.typeof(x).sharding.mesh
    if jax.sharding.AxisType.Explicit in mesh.axis_types:
      everywhere = jax.sharding.NamedSharding(mesh, jax.P())
      return jax.sharding.auto_axes(function, out_sharding=everywhere)(*seen)
  return function(*seen)
