"""The pieces of a topology, and the two functions F and M that they compute.

Four pieces describe every network that DKS and TAT cover: a nonlinear layer, a
sequence, a weighted sum whose squared weights add to 1, and the identity (which
affine layers and reshaping are, as far as angles go). `tatnet.network.lines` has parts
with straight lines as C maps, `tatnet.network.graph` sums whose branches read each other.

* `Topology.compose` is F, the whole network with r at every nonlinear layer.
* `Topology.maximum` is M, the largest value over all subnetworks, through which
  the methods set their network-wide targets.

One pair of functions serves all targets. With r the local C map they speak of
C maps; with ``y -> psi * y`` at 1, of slopes; with ``y -> y + kappa`` at 0, of
curvatures (DKS paper, "Summary of our method"; TAT paper, Appendix B.6).
"""

import abc
import collections
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tatnet.network.text import folded

Map = Callable[[Any], Any]
Maps = Map | Mapping[Hashable, Map]


class Topology(abc.ABC):
  """A network as a composition of nonlinear layers and normalised sums.

  Built by `chain`, `nonlinear`, `sequence`, `weighted_sum` and `identity`, or
  read from a model. Frozen, hashable, and equal when they describe the same
  network; ``a >> b`` is a followed by b.

  Example:
    >>> block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(2)))
    >>> net = block >> block >> tatnet.nonlinear()
    >>> net.num_nonlinear
    5
    >>> net
    2 x sum
      0.6 * identity
      0.8 * 2 x nonlinear
    nonlinear
    >>> round(net.maximum(0.0, lambda curvature: curvature + 1.0), 6)
    3.56
  """

  @abc.abstractmethod
  def compose(self, x: Any, r: Maps) -> Any:
    """F(x): the value at the output when r is applied at every nonlinear layer.

    Args:
      x: value at the input; a float or an array.
      r: the map of every nonlinear layer, or a mapping from each layer's
        `Nonlinear.activation` (None for the layers to be solved for) to its map.

    Returns:
      A value like x.
    """

  @abc.abstractmethod
  def subnetworks(self) -> Iterator["Topology"]:
    """Parts with one input and one output, the whole first."""

  @property
  @abc.abstractmethod
  def num_nonlinear(self) -> int | None:
    """Number of nonlinear layers in all branches; None where it is not known."""

  def maximum(self, x: Any, r: Maps) -> float:
    """M(x): the largest F(x) over the network and all its subnetworks.

    A subnetwork has one input and one output, and nothing leads into it or out of it
    elsewhere: any stretch of a sequence, and what lies inside one branch of a sum,
    which itself cannot be cut open. What begins before a sum and ends inside one of
    its branches is not among them, in the authors' code as here, and may exceed the
    target. Equal subnetworks are evaluated once.

    Args:
      x: value at the input of each subnetwork; or an array of several that are composed
        together, such as a slope and a curvature, of which the last counts.
      r: as in `compose`; increasing, as all maps of the methods are.

    Returns:
      The maximum.
    """
    ends = (end for part in self.distinct_subnetworks for end in part.best_stretches(x, r))
    return max(float(np.ravel(end)[-1]) for end in ends)

  def best_stretches(self, x: Any, r: Maps) -> list[Any]:
    """Values of the whole, or of a sequence those of its stretches that may be the largest."""
    return [self.compose(x, r)]

  @property
  def nesting(self) -> int:
    """How deep sums stand inside the branches of sums."""
    return 0

  @functools.cached_property
  def distinct_subnetworks(self) -> tuple["Topology", ...]:
    """Its subnetworks, equal ones once."""
    return tuple(dict.fromkeys(self.subnetworks()))

  def __rshift__(self, other: "Topology") -> "Topology":
    return in_a_row((self, other))

  @abc.abstractmethod
  def _lines(self) -> list[str]:
    """The structure as indented lines."""

  def __repr__(self) -> str:
    return "\n".join(self._lines())


@dataclasses.dataclass(frozen=True, repr=False)
class Nonlinear(Topology):
  """One nonlinear layer: an elementwise function after an affine map."""

  activation: Hashable | None = None
  where: str | None = dataclasses.field(default=None, compare=False)

  def compose(self, x, r):
    return r[self.activation](x) if isinstance(r, Mapping) else r(x)

  def subnetworks(self):
    yield self

  @property
  def num_nonlinear(self):
    return 1

  def _lines(self):
    name = "" if self.activation is None else f" {getattr(self.activation, 'name', '?')}"
    return [f"nonlinear{name}" + (f"  [{self.where}]" if self.where else "")]


@dataclasses.dataclass(frozen=True, repr=False)
class Composition(Topology):
  """Two or more parts, one after the other; built by `sequence`."""

  parts: tuple[Topology, ...]

  def compose(self, x, r):
    for part in self.parts:
      x = part.compose(x, r)
    return x

  def best_stretches(self, x, r):
    return stretches(x, [functools.partial(part.compose, r=r) for part in self.parts])

  def subnetworks(self):
    yield self
    for part in dict.fromkeys(self.parts):
      yield from part.subnetworks()

  @functools.cached_property
  def nesting(self):
    return max(part.nesting for part in self.parts)

  @functools.cached_property
  def num_nonlinear(self):
    return total_nonlinear(self.parts)

  def _lines(self):
    return folded(self.parts, lambda part: part._lines())


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Topology):
  """What leaves q and c values alone: affine layers, reshaping, division by the norm."""

  def compose(self, x, r):
    del r
    return x

  def subnetworks(self):
    yield self

  @property
  def num_nonlinear(self):
    return 0

  def _lines(self):
    return ["identity"]


@dataclasses.dataclass(frozen=True, repr=False)
class WeightedSum(Topology):
  """A sum of independent branches with squared weights adding to 1.

  Sums are equal in any order of their terms, and weights to nine decimals: 0.6
  and (1 - 0.8**2)**0.5 differ in the last bit.
  """

  weights: tuple[float, ...] = dataclasses.field(compare=False)
  branches: tuple[Topology, ...] = dataclasses.field(compare=False)
  where: str | None = dataclasses.field(default=None, compare=False)
  terms: frozenset = dataclasses.field(init=False)

  def __post_init__(self):
    rounded = (round(abs(weight), 9) for weight in self.weights)
    counted = collections.Counter(zip(rounded, self.branches, strict=True))
    object.__setattr__(self, "terms", frozenset(counted.items()))

  def compose(self, x, r):
    return sum(
      weight**2 * branch.compose(x, r)
      for weight, branch in zip(self.weights, self.branches, strict=True)
    )

  def subnetworks(self):
    yield self
    for branch in dict.fromkeys(self.branches):
      yield from branch.subnetworks()

  @functools.cached_property
  def nesting(self):
    return 1 + max(branch.nesting for branch in self.branches)

  @functools.cached_property
  def num_nonlinear(self):
    return total_nonlinear(self.branches)

  def _lines(self):
    lines = ["sum" + (f"  [{self.where}]" if self.where else "")]
    for weight, branch in zip(self.weights, self.branches, strict=True):
      first, *rest = branch._lines()
      lines.append(f"  {weight:.6g} * {first}")
      lines.extend(f"  {' ' * len(f'{weight:.6g} * ')}{line}" for line in rest)
    return lines


@dataclasses.dataclass(frozen=True, repr=False)
class HandWritten(Topology):
  """A maximising function ``f(x, r)`` that the user derived by hand."""

  function: Callable[[Any, Map], Any]

  def compose(self, x, r):
    try:
      with jax.enable_x64(True):  # a user's jnp.maximum would round to 32 bits
        value = self.function(x, r[None] if isinstance(r, Mapping) else r)
        if value is None:
          raise TypeError("it returned None")
        value = np.asarray(value, np.float64)
    except TypeError as error:
      raise TypeError(_NOT_A_MAP.format(name=self._name, problem=error)) from error
    except ValueError as error:
      raise ValueError(_NOT_A_MAP.format(name=self._name, problem=error)) from error
    if np.shape(value) != np.shape(x):
      problem = f"it returned an array of shape {value.shape} for one of shape {np.shape(x)}"
      raise ValueError(_NOT_A_MAP.format(name=self._name, problem=problem))
    return value if np.ndim(x) else float(value)

  @property
  def _name(self):
    return getattr(self.function, "__name__", "function")

  def subnetworks(self):
    yield self

  @property
  def num_nonlinear(self):
    return None

  def _lines(self):
    return [f"hand-written {self._name}(x, r)"]


def check_topology(name: str, topology: Any) -> Topology:
  """The argument of a builder, if it is a topology; raises TypeError if not."""
  if isinstance(topology, Topology):
    return topology
  raise TypeError(
    f"{name} got {topology!r} ({type(topology).__name__}); expected a Topology: build"
    " one with tatnet.chain, tatnet.nonlinear, tatnet.sequence, tatnet.weighted_sum or"
    " tatnet.identity."
  )


def in_a_row(parts: Sequence[Topology]) -> Topology:
  """Parts one after the other in canonical form: no sequence inside another, no identities."""
  flat: list[Topology] = []
  for part in parts:
    check_topology("sequence", part)
    if isinstance(part, Composition):
      flat.extend(part.parts)
    elif not isinstance(part, Identity):
      flat.append(part)
  if not flat:
    return Identity()
  return flat[0] if len(flat) == 1 else Composition(tuple(flat))


_NOT_A_MAP = (
  "The hand-written topology {name} failed: {problem}; expected a function f(x, r) that takes a"
  " number and a map, applies the map at each nonlinear layer, and returns a number."
)


def total_nonlinear(parts: Iterable[Topology]) -> int | None:
  """Number of nonlinear layers in all parts; None where one does not know its own."""
  counts = [part.num_nonlinear for part in parts]
  return None if None in counts else sum(counts)


def stretches(x: Any, maps: Sequence[Callable[[Any], Any]]) -> list[Any]:
  """Ends of the stretches of a sequence, begun anew wherever that may lead further.

  Args:
    x: value at the input of each stretch: a number, or several, such as a slope and a
      curvature, of which larger ones never lead to smaller ones.
    maps: the parts, as increasing functions.
  """
  starts, found = [x], []
  for part in maps:
    ends = [part(start) for start in starts]
    found += ends
    starts = _undominated([x, *ends])
  return found


def _undominated(values: list[Any]) -> list[Any]:
  """The values that are not below another one in every respect."""
  if np.ndim(values[0]) == 0:
    return [max(values)]
  kept: list[Any] = []
  for value in values:
    if not any(np.all(value <= other) for other in kept):
      kept = [other for other in kept if not np.all(other <= value)] + [value]
  return kept
