"""Layers of one shape as one stack, so that programs grow with the shapes and not with the layers."""

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tatnet.optim.blocks import Block, DiagonalBlock, KroneckerBlock

ByLayer = Mapping[str, Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Group:
  """Layers whose curvature is kept, inverted and applied together.

  Attributes:
    block: of all of them: a stack, or the block of the only layer.
    names: of the layers, in the order of the stack; one for a layer by itself.
  """

  block: Block
  names: tuple[str, ...]

  @property
  def is_single(self) -> bool:
    """Whether it is one layer, or one stack of the model's own."""
    return len(self.names) == 1

  def gather(self, arrays: ByLayer) -> dict[str, jax.Array]:
    """Arrays by layer as stacks; zeros for a layer that has none."""
    if self.is_single:
      return dict(arrays[self.names[0]])
    like = next(arrays[name] for name in self.names if name in arrays)
    zeros = {key: jnp.zeros_like(array) for key, array in like.items()}
    stacked = [arrays.get(name, zeros) for name in self.names]
    return {key: jnp.stack([member[key] for member in stacked]) for key in like}

  def gather_weights(self, gradients: ByLayer) -> dict[str, jax.Array]:
    """The same of gradients: kernels of any window become matrices."""
    if self.is_single:
      return dict(gradients[self.names[0]])
    return self.gather(
      {name: _own(self.block, gradients[name]) for name in self.names if name in gradients}
    )

  def scatter(self, stacks: Mapping[str, jax.Array], like: ByLayer) -> dict[str, dict[str, Any]]:
    """Stacks as arrays by layer, of the shapes of those in `like`."""
    if self.is_single:
      name = self.names[0]
      return {name: {**like[name], **stacks}}
    # Numbers behind a barrier are not known to the compiler: of slices at known places each
    # would be a kernel of its own, and slow to compile; these are one.
    places = jax.lax.optimization_barrier([jnp.int32(i) for i, _ in enumerate(self.names)])
    return {
      name: {
        **like[name],
        **{
          key: _like(jax.lax.dynamic_index_in_dim(stack, i, keepdims=False), like[name][key])
          for key, stack in stacks.items()
        },
      }
      for i, name in zip(places, self.names, strict=True)
      if name in like
    }


def grouped(blocks: Mapping[str, Block]) -> dict[str, Group]:
  """Groups of blocks of one shape, by the name that the state has for them.

  Example:
    >>> from tatnet.optim.blocks import blocks_of
    >>> from tatnet.optim.groups import grouped
    >>> layers = {f"layer_{i}": {"w": jnp.ones([4, 4])} for i in range(3)}
    >>> list(grouped(blocks_of(layers | {"last": {"w": jnp.ones([4, 2])}})[0]))
    ['last', 'layer_0 and 2 like it']
  """
  alike: dict[Hashable, list[str]] = {}
  for name in sorted(blocks):  # jax.jit sorts dictionaries
    alike.setdefault(_shape(blocks[name]), []).append(name)
  groups = {}
  for names in alike.values():
    key = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it"
    groups[key] = Group(_stack(key, [blocks[name] for name in names]), tuple(names))
  return dict(sorted(groups.items()))


def _shape(block: Block) -> Hashable:
  """What blocks have in common that can be one stack."""
  if isinstance(block, KroneckerBlock) and block.layers is None and block.key == "w":
    # Which sides are diagonals follows from their sizes.
    return (math.prod(block.weight[:-1]), block.weight[-1], block.with_bias, block.frozen)
  if isinstance(block, DiagonalBlock):
    return tuple(sorted(block.shapes))
  return block.name  # a stack already, or a table


def _stack(key: str, blocks: list[Block]) -> Block:
  first, count = blocks[0], len(blocks)
  if count == 1:
    return first
  if isinstance(first, KroneckerBlock):
    weight = (math.prod(first.weight[:-1]), first.weight[-1])
    return dataclasses.replace(first, name=key, weight=weight, layers=count)
  shapes = tuple((side, (count, *shape)) for side, shape in first.shapes)
  return dataclasses.replace(first, name=key, shapes=shapes)


def _like(array: jax.Array, other: jax.Array) -> jax.Array:
  return array.reshape(other.shape).astype(other.dtype)


def _own(block: Block, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """What the block acts on, kernels as matrices."""
  if not isinstance(block, KroneckerBlock):
    return {key: arrays[key] for key, _ in block.shapes}
  own = {}
  if block.frozen != "w":
    own["w"] = arrays["w"].reshape(block.weight)
  if block.with_bias:
    own["b"] = arrays["b"]
  return own


def members(groups: Mapping[str, Group], curvature: ByLayer) -> dict[str, dict[str, jax.Array]]:
  """The curvature of every single layer."""
  found = {}
  for key, group in groups.items():
    for i, name in enumerate(group.names):
      found[name] = {
        side: array if group.is_single else array[i] for side, array in curvature[key].items()
      }
  return found
