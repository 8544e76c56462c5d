"""The pieces of a topology, and the two functions F and M that they compute.

Four pieces describe every network that DKS and TAT cover: a nonlinear layer, a
sequence, a weighted sum whose squared weights add to 1, and the identity (which
affine layers, pooling, reshaping and layer normalisation all are, as far as
angles go).

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
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

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

  def maximum(self, x: float, r: Maps) -> float:
    """M(x): the largest F(x) over the network and all its subnetworks.

    A subnetwork has one input and one output: any stretch of a sequence, and what
    lies inside one branch of a sum, which itself cannot be cut open. Equal
    subnetworks are evaluated once.

    Args:
      x: value at the input of each subnetwork.
      r: as in `compose`; increasing, as all maps of the methods are.

    Returns:
      The maximum.
    """
    return max(part.best_stretch(x, r) for part in self._distinct_subnetworks)

  def best_stretch(self, x: float, r: Maps) -> float:
    """The largest value over the stretches of a sequence; elsewhere that of the whole."""
    return self.compose(x, r)

  @functools.cached_property
  def _distinct_subnetworks(self) -> tuple["Topology", ...]:
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

  def best_stretch(self, x, r):
    # A stretch that has fallen below its input is better begun anew.
    best, value = -math.inf, x
    for part in self.parts:
      value = part.compose(max(x, value), r)
      best = max(best, value)
    return best

  def subnetworks(self):
    yield self
    for part in dict.fromkeys(self.parts):
      yield from part.subnetworks()

  @functools.cached_property
  def num_nonlinear(self):
    return _total(self.parts)

  def _lines(self):
    return _fold(self.parts)


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Topology):
  """What leaves q and c values alone: affine layers, pooling, reshaping."""

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
  def num_nonlinear(self):
    return _total(self.branches)

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


def _total(parts: Sequence[Topology]) -> int | None:
  counts = [part.num_nonlinear for part in parts]
  return None if None in counts else sum(counts)


def _fold(parts: Sequence[Topology]) -> list[str]:
  """Lines of a sequence, with runs of repeated parts written once."""
  lines, start = [], 0
  while start < len(parts):
    period, times = max(
      ((p, _repeats(parts, start, p)) for p in range(1, 5)),
      key=lambda run: (run[0] * run[1] if run[1] > 1 else 1, -run[0]),
    )
    if times == 1:
      period = 1
    unit = [line for part in parts[start : start + period] for line in part._lines()]
    if times > 1:
      prefix = f"{times} x "
      unit = (
        [prefix + unit[0], *unit[1:]]
        if period == 1
        else [prefix + "("] + ["  " + line for line in unit] + [")"]
      )
    lines.extend(unit)
    start += period * times
  return lines


def _repeats(parts: Sequence[Topology], start: int, period: int) -> int:
  unit, times = parts[start : start + period], 1
  while parts[start + times * period : start + (times + 1) * period] == unit:
    times += 1
  return times
