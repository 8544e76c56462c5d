"""From steps to a topology and back: sequences and sums where it has that form, else a graph."""

import collections
from collections.abc import Collection, Sequence

from tatnet.network.dominators import immediate_dominators
from tatnet.network.graph import Graph, Step, Term
from tatnet.network.nodes import Composition, Identity, Topology, WeightedSum, in_a_row

# Sums inside sums beyond it become steps: what walks a topology recurses as deep.
DEEPEST = 32


def assembled(steps: Sequence[Step]) -> Topology:
  """The network that steps compute, in sequences and sums wherever it has that form.

  Args:
    steps: in the order of the signal; steps that the last does not need are left out.
  """
  sources = [set()] + [{term.source for term in step.terms} for step in steps]
  before = immediate_dominators(sources)

  def between(start: int, end: int, level: int) -> Topology:
    parts = []
    while end != start:
      parts.append(piece(end, level))
      end = before[end]
    return in_a_row(parts[::-1])

  def piece(number: int, level: int) -> Topology:
    """What stands between a value and the last one that dominates it."""
    step, start = steps[number - 1], before[number]
    if len(step.terms) == 1:
      return step.terms[0].piece
    inner = [_within(start, term.source, sources) for term in step.terms]
    union = set().union(*inner)
    if level < DEEPEST and len(union) == sum(map(len, inner)):
      branches = [in_a_row([between(start, t.source, level + 1), t.piece]) for t in step.terms]
      nested = 1 + max(branch.nesting for branch in branches)
      if nested <= DEEPEST:
        return _sum(step, branches)
    return _region(steps, start, sorted(union), number)

  return between(0, len(steps), 0)


def _sum(step: Step, branches: list[Topology]) -> Topology:
  weights = tuple(term.weight for term in step.terms)
  return WeightedSum(weights, tuple(branches), step.where)


def _within(start: int, end: int, sources: Sequence[Collection[int]]) -> set[int]:
  """The values between two, the second among them."""
  found, queue = set(), [end]
  while queue:
    number = queue.pop()
    if number != start and number not in found:
      found.add(number)
      queue += sources[number]
  return found


def _region(steps: Sequence[Step], start: int, inner: list[int], end: int) -> Topology:
  """The graph of some steps; what has one source and one user is a piece between two others."""
  numbers = [*inner, end]
  uses = collections.Counter(t.source for number in numbers for t in steps[number - 1].terms)
  kept: list[Step] = []
  places: dict[int, tuple[int, Topology]] = {start: (0, Identity())}

  def moved(term: Term) -> Term:
    source, way = places[term.source]
    return Term(term.weight, source, in_a_row([way, term.piece]))

  for number in numbers:
    step = steps[number - 1]
    terms = tuple(map(moved, step.terms))
    if len(terms) == 1 and uses[number] == 1:
      places[number] = terms[0].source, terms[0].piece
    else:
      kept.append(Step(terms, step.where))
      places[number] = len(kept), Identity()
  return Graph(tuple(kept))


def steps_of(topology: Topology, source: int, steps: list[Step]) -> int:
  """Appends what a network computes from an earlier value; the number of its output.

  Args:
    topology: the network.
    source: number of the value that enters it.
    steps: to which its own are appended.
  """
  match topology:
    case Composition(parts=parts):
      for part in parts:
        source = steps_of(part, source, steps)
      return source
    case WeightedSum(weights=weights, branches=branches, where=where):
      ends = [steps_of(branch, source, steps) for branch in branches]
      terms = [Term(w, end, Identity()) for w, end in zip(weights, ends, strict=True)]
      steps.append(Step(tuple(terms), where))
    case Graph(steps=inner):
      numbers = [source]
      for step in inner:
        terms = [
          Term(t.weight, steps_of(t.piece, numbers[t.source], steps), Identity())
          for t in step.terms
        ]
        steps.append(Step(tuple(terms), step.where))
        numbers.append(len(steps))
    case Identity():
      return source
    case _:
      steps.append(Step((Term(1.0, source, topology),)))
  return len(steps)


def flattened(topology: Topology) -> Topology:
  """A network of sums nested deeper than `DEEPEST` as a graph; any other as it is."""
  if topology.nesting <= DEEPEST:
    return topology
  steps: list[Step] = []
  steps_of(topology, 0, steps)
  return _region(steps, 0, list(range(1, len(steps))), len(steps))
