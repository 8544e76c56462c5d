"""Meshes and shardings: one device, many devices, many hosts by the same code."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding


def data_mesh() -> Mesh:
  """A mesh of all devices of all processes along one axis, "data".

  Example:
    >>> tatnet.training.data_mesh().axis_names
    ('data',)
  """
  # Explicit axes, the default of JAX, refuse losses that gather by integer labels.
  return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh, tree: Any) -> Any:
  """A tree of arrays on every device.

  Example:
    >>> tree = tatnet.training.replicated(tatnet.training.data_mesh(), {"w": jnp.ones(3)})
    >>> tree["w"].sharding.is_fully_replicated
    True
  """
  sharding = NamedSharding(mesh, jax.P())
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree
  )


def sharded(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """A global batch from each process's part of it, split over the devices.

  Args:
    mesh: from `data_mesh`.
    batch: arrays with examples along the leading axis; every process gives its part.

  Returns:
    Arrays of the global batch.

  Raises:
    ValueError: the global batch does not divide by the number of devices.

  Example:
    >>> mesh = tatnet.training.data_mesh()
    >>> tatnet.training.sharded(mesh, {"label": np.arange(8)})["label"].shape
    (8,)
  """
  for name, array in batch.items():
    total = len(array) * jax.process_count()
    if total % mesh.size:
      raise ValueError(
        f"The global batch of {name!r} has {total} examples; expected a multiple of the"
        f" {mesh.size} devices."
      )
  sharding = NamedSharding(mesh, jax.P("data"))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
    for name, array in batch.items()
  }
