"""The network under the model: nodes of unit q, and how signals combine into them.

A node is a signal normalised to q = 1, made from others by a piece of topology or as a
weighted sum of them. Nodes are kept once, however many read them; from the last one the
topology is assembled.
"""

import itertools
import math

from tatnet.network.assembly import assembled
from tatnet.network.builders import centring, identity, nonlinear
from tatnet.network.graph import Step, Term
from tatnet.network.lines import Dropout
from tatnet.network.nodes import Topology, in_a_row
from tatnet.tracing.cautions import Cautions
from tatnet.tracing.findings import Finding, Findings
from tatnet.tracing.means import mean_share
from tatnet.tracing.nodes import Node, ends_fresh, wholes


class Network:
  """Builds nodes and keeps what must be known across the model."""

  def __init__(self, findings: Findings):
    self.findings = findings
    self._used: dict[str, str] = {}
    self._known: dict[tuple, Node] = {}
    self._live: list[Node] = []
    self._cautions = Cautions(findings)

  def input(self, name: str = "input") -> Node:
    """A signal that enters the network; the same one for a name."""
    return self._once(("input", name), lambda: Node("input", place=name))

  def affine(self, node: Node, leaves: frozenset[str], place: str, **options) -> Node:
    """Multiplication by weights; those that the signal has passed before are reported.

    Args:
      node: what they are applied to.
      leaves: names of the parameters.
      place: where in the model.
      **options: `key` of what else tells one product from another, so that the same product
        written twice is one node; fields of `Node`.
    """
    key = options.pop("key", None)
    node.consumed = True
    self._live.append(node)

    def made():
      tied = min((leaf for leaf in leaves if node.has_passed(leaf)), default=None)
      if tied is not None:
        self.findings.error(
          "tied weights",
          place,
          f"the parameter {tied or 'array'} was already used at {self._used_at(tied)}",
          "give each layer weights of its own: kernel shaping takes the weights of different layers"
          " as independent.",
        )
      for name in {*leaves, *(whole for leaf in leaves for whole in wholes(leaf))}:
        self._used.setdefault(name, place)
      return Node("affine", (node,), leaves=leaves, place=place, **options)

    return made() if key is None else self._once(("affine", node, leaves, key), made)

  def _used_at(self, leaf: str) -> str | None:
    names = (leaf, *wholes(leaf))
    return next((self._used[name] for name in names if name in self._used), None)

  def part(self, node: Node, name: str, place: str) -> Node:
    """Some features of a signal that ends with weights: other weights made each of them."""
    leaves = frozenset(f"{leaf}[{name}]" for leaf in node.leaves)
    return self._once(
      ("part", node, name), lambda: Node("affine", node.sources, leaves=leaves, place=place)
    )

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
    if activation is None:
      self._live.append(node)

    def made():
      self.look_before(node, place)
      where = f"{place}, gain taken as 1" if node.follows_guess else place
      made = Node("nonlinear", (node,), nonlinear(activation, where=where), place=place)
      made.is_mended = made.is_mended or not (node.is_gaussian or activation is None)
      return made

    return made() if key is None else self._once(("nonlinear", node, key), made)

  def look_before(self, node: Node, place: str) -> None:
    """Reports what is wrong with a signal that a nonlinear function reads."""
    self._cautions.before_nonlinear(node, place)

  def passed(self, kind: str, node: Node, key, place: str, **fields) -> Node:
    """What is done to a signal without weights or a nonlinearity, once for a key."""
    node.consumed = True
    return self._once((kind, node, key), lambda: Node(kind, (node,), place=place, **fields))

  def centred(self, node: Node, place: str) -> tuple[Node, float]:
    """Without its mean over features; the node and the factor on it."""
    share, known = mean_share(node.mean)
    if not share:
      return node, 1.0
    piece = centring(node.mean, where=place)
    fields = {"piece": piece, "mean": identity(), "size_unknown": not known}
    return self.passed("centred", node, None, place, **fields), math.sqrt(1 - share)

  def dropped(self, node: Node, keep: float, place: str) -> tuple[Node, float]:
    """Behind dropout while training; the node and its factor."""
    piece = Dropout(keep, place)
    fields = {"piece": piece, "mean": in_a_row([node.mean, piece]), "drops": ((place, keep),)}
    return self.passed("dropout", node, place, place, **fields), 1 / math.sqrt(keep)

  def mended(self, node: Node, place: str) -> Node:
    """A signal as if what was reported had been mended, with q = 1."""
    return Node("reported", (node,), place=place)

  def reported(self, nodes: list[Node], finding: Finding) -> Node:
    """Stands for a combination that has no map; reported if layers or the output read it."""
    key = ("reported", *nodes, finding)
    return self._once(
      key, lambda: Node("reported", tuple(nodes), place=finding.place, finding=finding)
    )

  def concatenation(self, parts: list[tuple[Node, float, int]], place: str) -> tuple[Node, float]:
    """Parts (node, coefficient, channels) side by side; the node and its factor."""
    channels = sum(count for _, _, count in parts)
    q = sum(count * coefficient**2 for _, coefficient, count in parts) / channels
    weights = [c * math.sqrt(n / channels / q) if q else 0.0 for _, c, n in parts]
    nodes = [node for node, _, _ in parts]
    for node in nodes:
      node.consumed = True
    kept = [(node, w) for node, w in zip(nodes, weights, strict=True) if w] or [(nodes[0], 1.0)]
    return Node("concatenation", terms=tuple(kept), place=place), math.sqrt(q)

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
    nodes, values = list(kept), list(kept.values())
    factor = math.sqrt(sum(c**2 for c in values))
    if abs(factor - 1) > tolerance:
      # A factor on the raw input is preprocessing, or the weight of a branch.
      scaled = [c * node.input_factor for node, c in kept.items()]
      scaled_factor = math.sqrt(sum(c**2 for c in scaled))
      if abs(scaled_factor - 1) <= tolerance:
        values, factor = scaled, scaled_factor
    finding = self._dependence(nodes, place)
    made = tuple((node, c / factor) for node, c in zip(nodes, values, strict=True))
    node = Node("sum", terms=made, place=place, finding=finding)
    node.made_with, node.tolerance = factor, tolerance
    return node, factor

  def consume_sum(self, node: Node, factor: float, tolerance: float) -> float:
    """Reports a sum that is used with q other than 1; returns the factor to go on with."""
    node.consumed = True
    if node.kind != "sum":
      return factor
    tolerance = max(tolerance, node.tolerance)
    if abs(abs(factor) - 1) <= tolerance:
      return math.copysign(1.0, factor)
    if abs(node.made_with - 1) <= tolerance:
      return factor  # normalised as it is, and multiplied afterwards
    if node.is_mended:
      node.corrected *= factor
      return 1.0
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

  def _once(self, key: tuple, make) -> Node:
    if key not in self._known:
      self._known[key] = make()
    return self._known[key]

  def _dependence(self, nodes: list[Node], place: str) -> Finding | None:
    if any(node.is_mended for node in nodes):
      return None
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
      return Finding("dependent branches", place, what, remedy)
    return None

  def depth(self, end: Node) -> int:
    """Number of nonlinear layers before a node, and in it."""
    return sum(node.kind == "nonlinear" for node in _ancestors([end]))

  def topology(self, end: Node) -> Topology:
    """The network up to a node; what layers or that node read and has no map is reported."""
    for node in _ancestors([*self._live, end]):
      if node.finding is not None:
        self.findings.add(node.finding)
    nodes = _ancestors([end])
    followed = set(_ancestors([node for node in nodes if node.kind == "nonlinear"]))
    values: dict[Node, int] = {}
    steps: list[Step] = []
    for node in nodes:
      terms = [Term(w, values[source], identity()) for source, w in node.terms]
      if not node.sources:
        values[node] = 0
      elif len({term.source for term in terms}) > 1:
        steps.append(Step(tuple(terms), node.place))
        values[node] = len(steps)
      elif node.piece == identity() or (node.kind == "dropout" and node not in followed):
        values[node] = values[node.sources[0]]
      else:
        steps.append(Step((Term(1.0, values[node.sources[0]], node.piece),)))
        values[node] = len(steps)
    if not steps or values[end] == 0:
      return identity()
    return assembled(steps[: values[end]])


def _ancestors(ends: list[Node]) -> list[Node]:
  """Nodes and all that they are made of, in the order in which they were made."""
  found, queue = set(), list(ends)
  while queue:
    node = queue.pop()
    if node not in found:
      found.add(node)
      queue += node.sources
  return sorted(found, key=lambda node: node.serial)


def _independent(a: Node, b: Node) -> bool:
  """Whether the mean product of two signals vanishes for random weights."""
  pairs, seen = [(a, b)], set()
  while pairs:
    one, other = pairs.pop()
    if (one, other) in seen or ends_fresh(one, other) or ends_fresh(other, one):
      continue
    seen.add((one, other))
    if one.is_transparent and one is not other:
      pairs += [(term, other) for term in one.sources]
    elif other.is_transparent and one is not other:
      pairs += [(one, term) for term in other.sources]
    else:
      return False
  return True


def _numbers(values: list[float]) -> str:
  return ", ".join(f"{value:.9g}" for value in values)
