"""Dummy arguments of a layer, and what its taps have to know of its uses."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax

from tatnet.optim.rows import Rows
from tatnet.optim.uses import Look


class Seen(NamedTuple):
  """What a tap sees.

  Attributes:
    name: of its dummy.
    ndim: number of axes of what it sees, those of a vmap included.
    dummy: shape of the dummy, of one layer of a stack.
  """

  name: str
  ndim: int
  dummy: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the taps of one layer have to know of its uses.

  Attributes:
    inputs: where the examples stand in what the layer sees; None for the leading axis.
    outputs: where they stand in what it returns.
    is_reused: whether it runs several times on an example.
    is_summed: whether its dummies are then rows of examples, summed over the uses.
    diagonal: sides of which only the diagonal is wanted.
    is_vmapped: whether the examples are hidden by a vmap.
    seen: of every dummy.
    name: of the layer, for the first look.
    look: what the first look notes; None afterwards.
  """

  inputs: Rows | None = None
  outputs: Rows | None = None
  is_reused: bool = False
  is_summed: bool = False
  diagonal: tuple[str, ...] = ()
  is_vmapped: bool = False
  seen: tuple[Seen, ...] = ()
  name: str = ""
  look: Look | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tap:
  """Dummy arguments of a layer; empty where K-FAC does not cover it.

  Attributes:
    arrays: whose cotangents are the statistics.
    plan: of the layer.
  """

  arrays: dict[str, jax.Array]
  plan: Plan = dataclasses.field(default=Plan(), metadata={"static": True})

  def side(self, *names: str) -> dict[str, jax.Array]:
    """Some of the dummies; those that the layer's plan does not have are left out."""
    return {name: self.arrays[name] for name in names if name in self.arrays}

  def is_diagonal(self, name: str) -> bool:
    """Whether a side's dummy is that of a diagonal."""
    return name in self.arrays and self.arrays[name].ndim == 1


def as_tap(tap: Tap | Mapping[str, jax.Array]) -> Tap:
  """A layer's tap, where a user's own function may give the dummies alone."""
  if isinstance(tap, Tap):
    return tap
  return Tap({name: array for name, array in tap.items() if array is not None})
