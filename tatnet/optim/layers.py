"""Parameters of any model library as layers with arrays of known names, and back.

K-FAC's blocks know one layout: ``{layer: {"w", "b"}}`` with weights ``[*window,
inputs, outputs]``, ``{"scale", "offset"}`` and ``{"embeddings"}``, as Haiku has it.
Here the trees of other libraries are brought into it, array by array.
"""

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax


class Place(NamedTuple):
  """Where an array of a library's tree stands in K-FAC's layout.

  Attributes:
    layer: path of the layer.
    name: "w", "b", "scale", "offset", "embeddings", or one that no block knows.
    order: of its axes there; None for its own.
    shape: there, axes reordered; None for its own.
  """

  layer: str
  name: str
  order: tuple[int, ...] | None = None
  shape: tuple[int, ...] | None = None


class Layers(NamedTuple):
  """A tree of parameters, or one like it, by layers.

  Attributes:
    arrays: ``{layer: {name: array}}``; what Optax keeps for another optimiser is an
      `optax.MaskedNode`.
    elsewhere: paths of what another optimiser has as a whole.
    restore: ``{layer: {name: array}}`` as a tree like the one given.
  """

  arrays: dict[str, dict[str, Any]]
  elsewhere: frozenset[str]
  restore: Callable[[Mapping[str, Mapping[str, Any]]], Any]


Entry = tuple[tuple[Any, ...], Any]  # path of an array, and the array


def as_layers(tree: Any) -> Layers:
  """The arrays of a tree by layers.

  Args:
    tree: parameters of Haiku, Flax (linen or NNX) or Equinox, or ``{layer: {name:
      array}}`` of a plain function; or gradients or updates of them.

  Returns:
    The layers, and how to get back.

  Raises:
    TypeError: another layout.

  Example:
    >>> from tatnet.optim.layers import as_layers
    >>> layers = as_layers({"Dense_0": {"kernel": jnp.ones([2, 3]), "bias": jnp.ones(3)}})
    >>> {name: list(arrays) for name, arrays in layers.arrays.items()}
    {'Dense_0': ['b', 'w']}
    >>> jax.tree.map(jnp.shape, layers.restore(layers.arrays))
    {'Dense_0': {'bias': (3,), 'kernel': (2, 3)}}
  """
  entries, structure = jax.tree.flatten_with_path(tree, is_leaf=is_masked)
  places = _places(tree, entries)
  arrays: dict[str, dict[str, Any]] = {}
  for place, (_, array) in zip(places, entries, strict=True):
    arrays.setdefault(place.layer, {})[place.name] = _moved(array, place)

  def restore(arrays):
    leaves = [
      _moved_back(arrays[place.layer][place.name], place, array)
      for place, (_, array) in zip(places, entries, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)

  elsewhere = ("/".join(path_of(path)) for path, array in entries if is_masked(array))
  return Layers(arrays, frozenset(elsewhere), restore)


def places_of(tree: Any) -> list[Place]:
  """Where the arrays of a tree stand, in the order of its leaves."""
  entries, _ = jax.tree.flatten_with_path(tree, is_leaf=is_masked)
  places = _places(tree, entries)
  return [place for place, (_, array) in zip(places, entries, strict=True) if not is_masked(array)]


def is_masked(entry: Any) -> bool:
  """Whether optax.partition or optax.masked keeps it for another optimiser."""
  return isinstance(entry, optax.MaskedNode)


def _moved(array: Any, place: Place) -> Any:
  if is_masked(array):
    return array
  if place.order is not None:
    array = array.transpose(place.order)
  if place.shape is not None and tuple(array.shape) != place.shape:
    array = array.reshape(place.shape)
  return array


def _moved_back(array: Any, place: Place, like: Any) -> Any:
  if is_masked(array):
    return array
  order = place.order or tuple(range(len(like.shape)))
  array = array.reshape([like.shape[i] for i in order])
  if place.order is not None:
    array = array.transpose([order.index(i) for i in range(len(order))])
  return array


def _places(tree: Any, entries: Sequence[Entry]) -> list[Place]:
  # Modules of Equinox have types, which say more than names. Where there is one, it
  # has been imported.
  if "equinox" in sys.modules:
    adapter = importlib.import_module("tatnet.optim.equinox_layers")
    if adapter.has_modules(tree):
      return adapter.places(tree, entries)
  named = [(path_of(path), array) for path, array in entries]
  # At any depth where Flax's names say whose they are. Other names at another depth
  # would be taken for parameters of no layer, and a whole model left to plain gradients.
  if not any(path[-1:] in (("kernel",), ("embedding",)) for path, _ in named):
    _check_two_levels(tree)
  groups: dict[str, dict[str, Any]] = {}
  for path, array in named:
    groups.setdefault("/".join(path[:-1]), {})[path[-1]] = array
  return [_flax_place("/".join(path[:-1]), path[-1], groups) for path, _ in named]


def path_of(path: Sequence[Any]) -> tuple[str, ...]:
  """Names along a path of `jax.tree_util`; what holds the value of an NNX variable has none."""
  names = []
  for key in path:
    name = next(getattr(key, a) for a in ("key", "idx", "name") if hasattr(key, a))
    if not (name in ("value", "raw_value") and isinstance(key, jax.tree_util.GetAttrKey)):
      names.append(str(name))
  return tuple(names)


def _flax_place(layer: str, name: str, groups: Mapping[str, Mapping[str, Any]]) -> Place:
  """By the names of Flax; those of Haiku are K-FAC's own."""
  group = groups[layer]
  if name == "embedding":
    return Place(layer, "embeddings")
  if name == "kernel":
    return Place(layer, "w", shape=_weight_shape(group))
  if name == "bias" and "kernel" in group:
    shape = _weight_shape(group)
    is_stack = (
      shape is not None and len(group["bias"].shape) > 1 and shape[-1:] == group["bias"].shape[-1:]
    )
    flat = None if shape is None or is_stack else shape[-1:]
    return Place(layer, "b", shape=flat)
  if name == "bias" and set(group) <= {"scale", "bias"}:
    return Place(layer, "offset")
  return Place(layer, name)


def _weight_shape(group: Mapping[str, Any]) -> tuple[int, ...] | None:
  """``[*window, inputs, outputs]`` of a kernel whose outputs have as many axes as its bias."""
  kernel, bias = group["kernel"], group.get("bias")
  if is_masked(kernel):
    return None
  shape = tuple(kernel.shape)
  own = () if bias is None or is_masked(bias) else tuple(bias.shape)
  if len(own) > 1 and shape[-len(own) :] == own:
    return (*shape[: -len(own)], math.prod(own))
  return shape


def _check_two_levels(tree: Any) -> None:
  is_by_layer = isinstance(tree, Mapping) and all(
    is_masked(arrays)
    or (
      isinstance(arrays, Mapping)
      and all(hasattr(a, "shape") or is_masked(a) for a in arrays.values())
    )
    for arrays in tree.values()
  )
  if not is_by_layer:
    raise TypeError(
      "K-FAC got parameters that are not laid out as {layer: {name: array}}; expected Haiku's,"
      " Flax's or Equinox's parameters, or a dictionary of layers whose arrays are called 'w' and"
      f" 'b', 'scale' and 'offset', or 'embeddings'. Given: {jax.tree.structure(tree)}."
    )
