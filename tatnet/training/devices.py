"""Meshes and shardings: one device, many devices, many hosts by the same code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

_HEARTBEAT_SECONDS = 30  # after which one that was killed is missed


def start_processes(
  coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Joins the processes of a run on several hosts, before anything else uses JAX.

  Afterwards `data_mesh` has the devices of all of them, and every process runs the
  same program on its part of each batch. JAX's devices are made here: what sets their
  platform or number comes before.

  Args:
    coordinator: "host:port" of the process with number 0; None where the cluster
      says it all (Slurm, Open MPI, Kubernetes, Cloud TPU).
    num_processes: how many there are; None as above.
    process_id: the number of this one, from 0; None as above.

  Raises:
    ValueError: an address without the numbers, and no cluster that knows them; or
      processes with different numbers of devices.
    RuntimeError: JAX was used before, or the others did not come.

  Example:
    >>> start_processes("10.0.0.1:8476", 2, 1)  # doctest: +SKIP
  """
  given = (coordinator, num_processes, process_id)
  if None in given and given != (None, None, None):
    raise ValueError(
      f"coordinator={coordinator!r}, num_processes={num_processes}, process_id={process_id};"
      " expected all three, or none of them on a cluster that JAX knows."
    )
  jax.distributed.initialize(
    coordinator, num_processes, process_id, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
  )
  if jax.device_count() != jax.local_device_count() * jax.process_count():
    raise ValueError(
      f"This process has {jax.local_device_count()} of {jax.device_count()} devices, and there are"
      f" {jax.process_count()} processes; expected as many devices in each."
    )
  # On CPUs, the first sum over all devices connects the processes, and fails if one of
  # them comes 30 seconds late, as it may where it has compiled more. Now all are here.
  mesh = data_mesh()
  ones = sharded(mesh, {"ones": np.ones(jax.local_device_count(), np.float32)})["ones"]
  total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, jax.P()))(ones)
  jax.block_until_ready(total)


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

  Args:
    mesh: from `data_mesh`.
    tree: arrays, the same on every process.

  Returns:
    The tree, replicated over the mesh.

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
