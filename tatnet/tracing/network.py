"""The network under the model: nodes of unit q, and how signals combine into them.

A node is a signal normalised to q = 1, given by its parent and the piece of
topology between the two. A sum or a concatenation has as its parent the last
node that all its branches come from, so following parents from the output to the
input spells out the network as a sequence of pieces.
"""

import dataclasses
import functools
import itertools
import math

from tatnet.network.builders import identity, nonlinear, sequence, weighted_sum
from tatnet.network.nodes import Topology
from tatnet.tracing.findings import Findings

_serial = itertools.count()


@dataclasses.dataclass(eq=False)
class Node:
  """A unit-q signal of the network.

  Attributes:
    kind: "input", "affine", "nonlinear", "sum" or "concatenation".
    parent: the node before, None for the input.
    piece: topology from the parent to here.
    terms: for sums and concatenations, pairs (node, coefficient on its unit signal).
    leaves: names of the parameters that an affine map uses.
    place: where in the model.
    made_with: factor on the unit signal when a sum was formed.
    tolerance: relative rounding of a sum's weights.
    corrected: factor by which a sum that was reported as not normalised is too
      large; what follows is read as if it had been mended.
    consumed: whether anything but another sum has used the node.
    depth: number of nodes before it.
    all_leaves: parameters used anywhere between the input and here.
    last_leaves: those of the affine maps that the signal ends with.
    is_gaussian: whether random weights were applied since the last nonlinearity or
      the input, so that the entries are Gaussian.
    reaches_input: whether it leads back to the input without any layer between.
  """

  kind: str
  parent: "Node | None" = None
  piece: Topology = dataclasses.field(default_factory=identity)
  terms: tuple[tuple["Node", float], ...] = ()
  leaves: frozenset[str] = frozenset()
  place: str = ""
  made_with: float = 1.0
  tolerance: float = 0.0
  corrected: float = 1.0
  consumed: bool = False
  depth: int = dataclasses.field(default=0, init=False)

  def __post_init__(self):
    # Derived once from the nodes before; following them later would recurse as
    # deep as the network.
    self.serial = next(_serial)
    self.depth = 0 if self.parent is None else self.parent.depth + 1
    sources = self.sources
    self.all_leaves = self.leaves.union(*(source.all_leaves for source in sources))
    if self.kind == "affine":
      self.last_leaves, self.is_gaussian, self.reaches_input = self.leaves, True, False
    elif self.kind in ("input", "nonlinear"):
      self.last_leaves, self.is_gaussian = frozenset(), False
      self.reaches_input = self.kind == "input"
    else:
      self.last_leaves = frozenset().union(*(source.last_leaves for source in sources))
      # One branch with weights makes a sum count: a ResNet of version 1 adds to the
      # output of a nonlinearity, and its authors' maps treat the sum as Gaussian.
      enough = any if self.kind == "sum" else all
      self.is_gaussian = enough(source.is_gaussian for source in sources)
      self.reaches_input = any(source.reaches_input for source in sources)

  @property
  def sources(self) -> tuple["Node", ...]:
    """The nodes that this one is made of."""
    if self.terms:
      return tuple(node for node, _ in self.terms)
    return () if self.parent is None else (self.parent,)

  def topology_from(self, ancestor: "Node") -> Topology:
    """The network between an ancestor and this node."""
    pieces, node = [], self
    while node is not ancestor:
      pieces.append(node.piece)
      node = node.parent
    return sequence(*reversed(pieces))


class Network:
  """Builds nodes and keeps what must be known across the model."""

  def __init__(self, findings: Findings):
    self.findings = findings
    self.input = Node("input", place="input")
    self._used: dict[str, str] = {}
    self._partly_used: dict[str, str] = {}
    self._nonlinear: dict[tuple, Node] = {}

  def affine(self, node: Node, leaves: frozenset[str], place: str) -> Node:
    """Multiplication by weights; parameters that were used before are reported."""
    node.consumed = True
    tied = min((leaf for leaf in leaves if self._used_at(leaf)), default=None)
    if tied is not None:
      self.findings.error(
        "tied weights",
        place,
        f"the parameter {tied or 'array'} was already used at {self._used_at(tied)}",
        "give each layer weights of its own: kernel shaping takes the weights of different layers"
        " as independent.",
      )
    for leaf in leaves:
      self._used.setdefault(leaf, place)
      for whole in _wholes(leaf):
        self._partly_used.setdefault(whole, place)
    return Node("affine", node, leaves=leaves, place=place)

  def _used_at(self, leaf: str) -> str | None:
    """Where a parameter, one of its parts, or what it is part of was used."""
    places = [self._used.get(name) for name in (leaf, *_wholes(leaf))]
    return next((p for p in places if p), None) or self._partly_used.get(leaf)

  def nonlinear(self, node: Node, activation, key, place: str) -> Node:
    """An elementwise function.

    Args:
      node: what it is applied to.
      activation: the function; None for the one to be solved for.
      key: of a value that may be read several times, so that it is one layer; None
        for a layer of its own, as every call of the activation is.
      place: where in the model.
    """
    node.consumed = True
    known = self._nonlinear.get((node.serial, key))
    if key is not None and known is not None:
      return known
    if not node.is_gaussian:
      before = "the raw input" if node.reaches_input else "the output of a nonlinearity"
      self.findings.error(
        "nonlinearity without weights before it",
        place,
        f"it is applied to {before}, with no linear or convolutional layer between",
        "put a layer with random weights before it; only then are its inputs Gaussian, as C maps"
        " assume.",
      )
    result = Node("nonlinear", node, nonlinear(activation, where=place), place=place)
    self._nonlinear[node.serial, key] = result
    return result

  def concatenation(self, parts: list[tuple[Node, float, int]], place: str) -> tuple[Node, float]:
    """Parts (node, coefficient, channels) side by side; the node and its factor."""
    channels = sum(count for _, _, count in parts)
    q = sum(count * coefficient**2 for _, coefficient, count in parts) / channels
    weights = [c * math.sqrt(n / channels / q) if q else 0.0 for _, c, n in parts]
    nodes = [node for node, _, _ in parts]
    for node in nodes:
      node.consumed = True
    return self._join("concatenation", nodes, weights, place), math.sqrt(q)

  def add(
    self, terms: list[tuple[Node, float]], place: str, tolerance: float
  ) -> tuple[Node, float]:
    """A weighted sum of unit signals; the node and its factor.

    Sums that nothing else has used are taken apart first, so that a sum of three
    is one sum, and so are those that share a term.
    """
    merged: dict[Node, float] = {}
    queue = list(terms)
    while queue:
      node, coefficient = queue.pop(0)
      others = {n for n, _ in queue} | set(merged)
      inner = {n for n, _ in node.terms} if node.kind == "sum" else set()
      if inner and (not node.consumed or inner & others):
        queue = [(n, coefficient * c) for n, c in node.terms] + queue
        tolerance = max(tolerance, node.tolerance)
      else:
        merged[node] = merged.get(node, 0.0) + coefficient
    kept = {node: c for node, c in merged.items() if c}
    if len(kept) < 2:
      ((node, coefficient),) = kept.items() or ((next(iter(merged)), 0.0),)
      return node, coefficient
    factor = math.sqrt(sum(c**2 for c in kept.values()))
    nodes, weights = list(kept), [c / factor for c in kept.values()]
    self._check_independent(nodes, place)
    node = self._join("sum", nodes, weights, place)
    node.made_with, node.tolerance = factor, tolerance
    return node, factor

  def consume_sum(self, node: Node, factor: float, tolerance: float) -> float:
    """Reports a sum that is used with q other than 1; returns the factor to go on with."""
    node.consumed = True
    if node.kind != "sum":
      return factor
    if abs(abs(factor) - 1) <= max(tolerance, node.tolerance):
      return math.copysign(1.0, factor)
    weights = [factor * weight for _, weight in node.terms]
    self.findings.error(
      "sum not normalised",
      node.place,
      f"its terms have the weights {_numbers(weights)}, whose squares add to {factor**2:.9g}",
      "write it as w * shortcut + sqrt(1 - w**2) * branch, and let the activation be the model's"
      " argument, since another one changes the weights found; or divide the sum by"
      f" {abs(factor):.9g}, which makes them {_numbers([w / factor for w in weights])}.",
    )
    node.corrected *= factor
    return 1.0

  def _join(self, kind: str, nodes: list[Node], weights: list[float], place: str) -> Node:
    ancestor = functools.reduce(_common_ancestor, nodes)
    branches = [(w, n.topology_from(ancestor)) for w, n in zip(weights, nodes, strict=True)]
    if kind == "concatenation" and {branch for _, branch in branches} == {identity()}:
      piece = identity()
    else:
      piece = weighted_sum(*branches, where=place)
    terms = tuple(zip(nodes, weights, strict=True))
    return Node(kind, ancestor, piece, terms=terms, place=place)

  def _check_independent(self, nodes: list[Node], place: str) -> None:
    for first, second in itertools.combinations(nodes, 2):
      if _independent(first, second):
        continue
      shared = first.last_leaves & second.last_leaves
      if shared:
        what = f"two of its branches end with the same weights, {min(shared)}"
        remedy = "give each branch weights of its own, so that the branches are independent."
      else:
        what = "two of its branches are not independent: neither ends with weights of its own"
        remedy = (
          "end all branches but one with a linear or convolutional layer, without an activation."
        )
      self.findings.error("dependent branches", place, what, remedy)
      return


def _wholes(leaf: str) -> list[str]:
  """What a part of a parameter, such as ``w[2][0:3]``, is part of."""
  return [leaf[:position] for position, letter in enumerate(leaf) if letter == "["]


def _common_ancestor(a: Node, b: Node) -> Node:
  while a is not b:
    if a.depth >= b.depth:
      a = a.parent
    else:
      b = b.parent
  return a


def _independent(a: Node, b: Node) -> bool:
  """Whether the mean product of two signals vanishes for random weights."""
  pairs = [(a, b)]
  while pairs:
    one, other = pairs.pop()
    if _ends_fresh(one, other) or _ends_fresh(other, one):
      continue
    if one.terms and one is not other:
      pairs += [(term, other) for term in one.sources]
    elif other.terms and one is not other:
      pairs += [(one, term) for term in other.sources]
    else:
      return False
  return True


def _ends_fresh(one: Node, other: Node) -> bool:
  """Whether a signal ends with weights that the other has never seen."""
  return one.kind == "affine" and bool(one.leaves) and not one.leaves & other.all_leaves


def _numbers(values: list[float]) -> str:
  return ", ".join(f"{value:.9g}" for value in values)
