"""What a traced function is called with: inputs, parameters by name, everything else as it is."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.tracing import axes as axis_labels
from tatnet.tracing.program import Reader, constant
from tatnet.tracing.values import Data, Known, Signal, Value, Weights


def as_input(reader: Reader, name: str, leaf: Any, batch_axis: int | None) -> Value:
  """What an array of the inputs is: signal, integers that may become one, or a mask."""
  rank = len(leaf.shape)
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return Signal(reader.network.input(name), 1.0, axis_labels.of_input(rank, batch_axis))
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return Data("input", name=name)
  # Masks of what is there: all of it is.
  return Known(1.0) if rank and leaf.dtype == bool else Data()


def as_parameter(name: str, leaf: Any, statistics: set[str]) -> Value:
  """What a leaf of the parameters is."""
  if name in statistics:
    return Data("state", size=math.prod(leaf.shape))
  size, leaves = math.prod(leaf.shape), frozenset({name})
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    # Counters and random keys, or weights that are kept as integers.
    is_weight = jnp.issubdtype(leaf.dtype, jnp.integer) and len(leaf.shape) > 1
    return Weights(leaves, certain=False, size=size, is_integer=True) if is_weight else Data()
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return Weights(leaves, certain=False, size=size)
  array = np.asarray(leaf, np.float64)
  return Weights(leaves, getattr(constant(array), "value", None), size=size, array=array)


def running_statistics(params: Any) -> set[str]:
  """Names of the leaves that hold running statistics of a batch normalisation.

  Flax linen keeps them in the collection "batch_stats", Flax NNX in variables of
  type BatchStat, Equinox in its State, Haiku in modules called "mean_ema" and "var_ema".
  """

  def is_statistic(node):
    library = type(node).__module__.split(".")[0]
    return (library, type(node).__name__) in (("flax", "BatchStat"), ("equinox", "State"))

  names = {name_of(path) for path, _ in leaves_of(params)}
  found = {n for n in names if {"batch_stats", "mean_ema", "var_ema"} & set(n.split("/"))}
  for path, node in jax.tree_util.tree_flatten_with_path(params, is_leaf=is_statistic)[0]:
    if is_statistic(node):
      found |= {"/".join((name_of(path), name_of(inner))) for inner, _ in leaves_of(node)}
  return found


def arrays_of(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
  """The arrays in a tree, and a function that puts others in their place.

  What is no array, such as a flag or a function, stays what it is.
  """
  leaves, structure = jax.tree.flatten(tree)

  def tree_of(arrays):
    rest = iter(arrays)
    return structure.unflatten([next(rest) if _is_array(leaf) else leaf for leaf in leaves])

  return [leaf for leaf in leaves if _is_array(leaf)], tree_of


def _is_array(leaf: Any) -> bool:
  return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def abstract_of(arrays: Sequence[Any], wide: bool) -> list[jax.ShapeDtypeStruct]:
  """Shapes of arrays; floats of 32 bits become 64 bits if asked."""

  def shape_of(leaf):
    dtype = jnp.float64 if wide and leaf.dtype == jnp.float32 else leaf.dtype
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=_mesh_sharding(leaf))

  return [shape_of(leaf) for leaf in arrays]


def _mesh_sharding(leaf: Any) -> Any:
  """How an array lies on a mesh, which a model for explicit axes asks of its inputs."""
  sharding = getattr(leaf, "sharding", None)
  return sharding if isinstance(sharding, jax.sharding.NamedSharding) else None


def leaves_of(tree: Any) -> list[tuple[Any, Any]]:
  """Paths and arrays."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(path, leaf) for path, leaf in leaves if _is_array(leaf)]


def name_of(path) -> str:
  """A path in a tree, as text."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def check_arguments(function: Callable, inputs: tuple, kwargs: dict[str, Any]) -> None:
  """Raises TypeError where the function could not be called."""
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # it does not tell
    return
  try:
    signature.bind(*inputs, **kwargs)
  except TypeError as error:
    raise TypeError(
      f"trace cannot call {getattr(function, '__name__', function)}{signature}: {error}. Expected the"
      " inputs in their order, the activation under the name 'activation', which trace passes by"
      " itself, and other arguments by keyword: trace(forward, inputs, is_training=True)."
    ) from None


def check_arrays(name: str, inputs: tuple) -> None:
  """Raises TypeError for inputs such as a bare shape."""
  if inputs and not any(map(_is_array, jax.tree.leaves(inputs))):
    raise TypeError(
      f"{name} got {', '.join(map(repr, inputs))}; expected arrays, or their shapes and dtypes:"
      " jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)."
    )


def takes_activation(function: Callable) -> bool:
  """Whether a function has an argument of that name."""
  try:
    parameters = inspect.signature(function).parameters
  except (TypeError, ValueError):
    return False
  return "activation" in parameters
