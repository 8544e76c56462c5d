"""Networks whose streams read each other: every value is computed once.

Branches of a `WeightedSum` share nothing but their beginning. Where they do, as in
coupled streams or dense connections, unrolling the paths would take exponentially many
terms; a `Graph` is a list of steps instead, each a weighted sum of earlier values.
`tatnet.network.assembly` takes lists of steps apart into sequences and sums as far as it goes.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from tatnet.network.dominators import dominates, immediate_dominators
from tatnet.network.nodes import (
  Identity,
  Topology,
  stretches,
  total_nonlinear,
)


class Term(NamedTuple):
  """``weight * piece(value of the source)``; the source 0 is the input, k the k-th step."""

  weight: float
  source: int
  piece: Topology


class Step(NamedTuple):
  """A sum of terms whose squared weights add to 1; or one term of weight 1."""

  terms: tuple[Term, ...]
  where: str | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Graph(Topology):
  """Steps in the order of the signal, of which the last is the output.

  Graphs are equal when their steps are, in whatever order they stand.
  """

  steps: tuple[Step, ...]

  def compose(self, x, r):
    values = [x]
    for step in self.steps:
      values.append(_value(step, [t.piece.compose(values[t.source], r) for t in step.terms]))
    return values[-1]

  def best_stretches(self, x, r):
    found = []
    for chain in self._chains:
      pairs = itertools.pairwise(chain)
      found += stretches(x, [functools.partial(self._between, a, b, r=r) for a, b in pairs])
    return found

  @functools.cached_property
  def _places(self) -> list[tuple[Term | Step | None, tuple[int, ...]]]:
    """Where a subnetwork may begin or end, each with the places before it.

    They are the values, and the two ends of every term: what lies inside one branch
    begins at the term, not at the value that others read as well.
    """
    places: list[tuple[Term | Step | None, tuple[int, ...]]] = [(None, ())]
    values = [0]
    for step in self.steps:
      ends = []
      for term in step.terms:
        places.append((None, (values[term.source],)))
        places.append((term, (len(places) - 1,)))
        ends.append(len(places) - 1)
      places.append((step, tuple(ends)))
      values.append(len(places) - 1)
    return places

  def _between(self, start: int, end: int, x: Any, r: Any) -> Any:
    """The value at one place when that at an earlier one, through which all paths lead, is x."""
    values = {start: x}
    for number in range(start + 1, end + 1):
      what, sources = self._places[number]
      if all(source in values for source in sources):
        before = [values[source] for source in sources]
        match what:
          case Step():
            values[number] = _value(what, before)
          case Term():
            values[number] = what.piece.compose(before[0], r)
          case _:
            values[number] = before[0]
    return values[end]

  @functools.cached_property
  def _chains(self) -> list[list[int]]:
    """Places in a row, with nothing that leads in or out between one and the next."""
    sources = [own for _, own in self._places]
    users: list[list[int]] = [[] for _ in sources]
    for number, own in enumerate(sources):
      for source in own:
        users[source].append(number)
    last = len(sources) - 1
    before = immediate_dominators(sources)
    behind = immediate_dominators([[last - user for user in own] for own in reversed(users)])
    after = {}
    for number in range(last):
      end = last - behind[last - number]
      if dominates(number, end, before):
        after[number] = end
    chains = []
    for head in sorted(set(after) - set(after.values())):
      chains.append([head])
      while chains[-1][-1] in after:
        chains[-1].append(after[chains[-1][-1]])
    # The two ends of one term: its piece is a subnetwork by itself.
    return [
      chain for chain in chains if len(chain) > 2 or not isinstance(self._places[chain[1]][0], Term)
    ]

  def subnetworks(self):
    yield self
    for piece in dict.fromkeys(self._pieces):
      yield from piece.subnetworks()

  @property
  def _pieces(self) -> list[Topology]:
    return [term.piece for step in self.steps for term in step.terms]

  @functools.cached_property
  def num_nonlinear(self):
    return total_nonlinear(self._pieces)

  @functools.cached_property
  def nesting(self):
    return 1 + max(piece.nesting for piece in self._pieces)

  def _form(self, known: dict) -> tuple[int, collections.Counter]:
    """What the steps compute, as numbers of equal steps: the output's, and how many of each."""
    numbers = [0]
    for step in self.steps:
      terms = ((round(abs(t.weight), 9), numbers[t.source], t.piece) for t in step.terms)
      key = frozenset(collections.Counter(terms).items())
      numbers.append(known.setdefault(key, len(known) + 1))
    return numbers[-1], collections.Counter(numbers)

  def __eq__(self, other):
    if not isinstance(other, Graph):
      return NotImplemented
    known: dict = {}
    return self._form(known) == other._form(known)

  def __hash__(self):
    return hash((len(self.steps), frozenset(collections.Counter(self._pieces).items())))

  def _lines(self):
    lines = ["graph"]
    for number, step in enumerate(self.steps, 1):
      name = "output" if number == len(self.steps) else f"v{number}"
      if len(step.terms) == 1:
        lines += _term(f"  {name} = ", step.terms[0])
      else:
        lines.append(f"  {name} = sum" + (f"  [{step.where}]" if step.where else ""))
        for term in step.terms:
          lines += _term(f"    {term.weight:.6g} * ", term)
    return lines


def _value(step: Step, terms: Sequence[Any]) -> Any:
  """The value of a step whose pieces have given some values."""
  if len(terms) == 1:
    return terms[0]
  return sum(term.weight**2 * value for term, value in zip(step.terms, terms, strict=True))


def _term(head: str, term: Term) -> list[str]:
  source = f"v{term.source}" if term.source else "input"
  if isinstance(term.piece, Identity):
    return [head + source]
  first, *rest = term.piece._lines()
  head += f"{source} >> "
  return [head + first, *(" " * len(head) + line for line in rest)]
