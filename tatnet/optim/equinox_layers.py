"""Where the arrays of Equinox's layers stand in K-FAC's layout."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax

from tatnet.optim.layers import Entry, Place, is_masked, path_of

NORMALIZATIONS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm)
LAYERS = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.Embedding, *NORMALIZATIONS)


def is_layer(node: Any) -> bool:
  """Whether it is a layer that K-FAC knows."""
  return isinstance(node, LAYERS)


def has_modules(tree: Any) -> bool:
  """Whether a tree has modules of Equinox."""
  nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, eqx.Module))
  return any(isinstance(node, eqx.Module) for node in nodes)


def name_of(path: Sequence[Any]) -> str:
  """Name of the layer at a path."""
  return "/".join(path_of(path)) or "~"


def places(tree: Any, entries: Sequence[Entry]) -> list[Place]:
  """Places of all arrays of a tree of modules."""
  found = {}
  for path, node in jax.tree.leaves_with_path(tree, is_leaf=is_layer):
    if is_layer(node):
      for key in ("weight", "bias"):
        if (array := getattr(node, key, None)) is not None:
          found[*path_of(path), key] = _place(name_of(path), node, key, array)
  return [_found(found, path_of(path)) for path, _ in entries]


def _found(found: dict[tuple[str, ...], Place], path: tuple[str, ...]) -> Place:
  return found.get(path) or Place("/".join(path[:-1]) or "~", path[-1] if path else "~")


def _place(layer: str, node: Any, key: str, array: Any) -> Place:
  if isinstance(node, eqx.nn.Embedding):
    return Place(layer, "embeddings")
  if isinstance(node, NORMALIZATIONS):
    return Place(layer, "scale" if key == "weight" else "offset")
  if is_masked(array):
    return Place(layer, "b" if key == "bias" else "w")
  # A stack of layers, made by eqx.filter_vmap, has an axis in front.
  shape, stack = array.shape, len(array.shape) - _axes(node, key)
  if key == "bias":
    return Place(layer, "b", shape=None if len(shape) == 1 else shape[: stack + 1])
  # [outputs, inputs, *window] becomes [*window, inputs, outputs].
  order = (*range(stack), *range(stack + 2, len(shape)), stack + 1, stack)
  return Place(layer, "w", order=order)


def _axes(node: Any, key: str) -> int:
  """Of a single layer's weight or bias; the bias of a convolution has axes for its locations."""
  space = node.num_spatial_dims if isinstance(node, eqx.nn.Conv) else 0
  return space + (2 if key == "weight" else 1)
