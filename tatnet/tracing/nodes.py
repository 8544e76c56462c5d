"""`Node`: one signal of unit q, and what is known of how it was made."""

import dataclasses
import itertools

import numpy as np

from tatnet.network.builders import identity, weighted_sum
from tatnet.network.nodes import Topology
from tatnet.tracing.findings import Finding

_serial = itertools.count()

# Kinds through which a product of two signals is that of their sources.
_TRANSPARENT = (
  "sum",
  "concatenation",
  "dropout",
  "averaged",
  "normalised",
  "centred",
  "mixed",
  "mixing",
  "reported",
)


@dataclasses.dataclass(eq=False)
class Node:
  """A unit-q signal of the network.

  Attributes:
    kind: "input", "affine", "nonlinear", "sum", "concatenation"; "centred", "normalised",
      "dropout", "averaged" (over locations), "mixed" (by constants), "mixing" (attention); or "reported".
    sources: the nodes that it is made of.
    piece: topology from a single source to here.
    terms: for sums and concatenations, pairs (node, coefficient on its unit signal).
    leaves: names of the parameters that an affine map uses.
    place: where in the model.
    mean: what stands between the last weights over features and here; its C map at 0 is the
      share of q that all signals have in common. The identity where that is none.
    mixes: whether an affine map sums over features.
    keeps_mean: whether it leaves the mean that all features share, as weights over locations do.
    inputs: number of entries that an affine map sums; of rows of a table 1 / features.
    pools: averages over locations behind a nonlinear layer: pairs (place, locations).
    rows: of an average over tokens with constant weights those weights, [tokens, tokens].
    drops: dropout since the last nonlinear layer: pairs (place, share kept).
    size_unknown: whether q is known only once the activation is solved for.
    input_factor: factor on the raw input that was taken for preprocessing.
    finding: what is wrong with a reported node.
    made_with: factor on the unit signal when a sum was formed.
    tolerance: relative rounding of a sum's weights.
    corrected: factor by which a sum that was reported as not normalised is too
      large; what follows is read as if it had been mended.
    consumed: whether anything but another sum has used the node.
    has_guess: whether it is multiplied by a gain that is given by its shape alone.
    passed: parameters used anywhere between the input and here.
    last_leaves: those of the affine maps that the signal ends with.
    is_gaussian: whether random weights were applied since the last nonlinearity or
      the input, so that the entries are Gaussian.
    unmixed: place of a layer that only multiplied the features of an activated signal.
    reaches_input: whether it leads back to the input without any layer between.
    has_layers: whether a nonlinear layer stands before it.
    is_mended: whether something was reported since the last nonlinear layer, so that its q
      is not that of the model.
  """

  kind: str
  sources: tuple["Node", ...] = ()
  piece: Topology = dataclasses.field(default_factory=identity)
  terms: tuple[tuple["Node", float], ...] = ()
  leaves: frozenset[str] = frozenset()
  place: str = ""
  mean: Topology | None = None
  mixes: bool = True
  keeps_mean: bool = False
  inputs: float = 0
  pools: frozenset[tuple[str, int]] = frozenset()
  rows: np.ndarray | None = None
  drops: tuple[tuple[str, float], ...] = ()
  size_unknown: bool = False
  input_factor: float = 1.0
  finding: Finding | None = None
  made_with: float = 1.0
  tolerance: float = 0.0
  corrected: float = 1.0
  consumed: bool = False
  has_guess: bool = False

  def __post_init__(self):
    # Derived once from the nodes before; following them later would recurse as
    # deep as the network.
    self.serial = next(_serial)
    if self.terms:
      self.sources = tuple(node for node, _ in self.terms)
    sources = self.sources
    self.passed = self.leaves.union(*(source.passed for source in sources))
    own = frozenset(whole for leaf in self.leaves for whole in wholes(leaf))
    self.passed_parts_of = own.union(*(source.passed_parts_of for source in sources))
    self.pools = self.pools.union(*(source.pools for source in sources))
    self.is_mended = self.kind == "reported" or (
      self.kind not in ("nonlinear", "normalised") and any(s.is_mended for s in sources)
    )
    self.has_layers = self.kind == "nonlinear" or any(s.has_layers for s in sources)
    if self.mean is None:
      self.mean = self._mean()
    if self.kind == "affine":
      self.last_leaves, self.reaches_input = self.leaves, False
      self.is_gaussian = True
      alone = not self.mixes and not all(source.is_gaussian for source in sources)
      self.unmixed = self.place if alone else ""
    elif self.kind in ("input", "nonlinear"):
      self.unmixed = ""
      self.last_leaves, self.is_gaussian = frozenset(), False
      self.reaches_input = self.kind == "input"
    else:
      self.last_leaves = frozenset().union(*(source.last_leaves for source in sources))
      # One branch with weights makes a sum count: a ResNet of version 1 adds to the
      # output of a nonlinearity, and its authors' maps treat the sum as Gaussian.
      enough = any if self.kind == "sum" else all
      self.unmixed = next((s.unmixed for s in sources if s.unmixed), "")
      self.is_gaussian = self.kind == "reported" or enough(s.is_gaussian for s in sources)
      self.reaches_input = any(source.reaches_input for source in sources)
    if self.kind != "nonlinear":
      self.drops = (*(drop for source in sources for drop in source.drops), *self.drops)

  def _mean(self) -> Topology:
    if self.terms:
      means = [(weight, node.mean) for node, weight in self.terms]
      if all(mean == identity() for _, mean in means):
        return identity()
      return means[0][1] if len(means) == 1 else weighted_sum(*means)
    if self.kind == "nonlinear":
      return self.piece
    if self.kind == "input" or (self.kind == "affine" and not self.keeps_mean):
      return identity()
    return self.sources[0].mean if self.sources else identity()

  @property
  def is_raw(self) -> bool:
    """Whether it is an input, perhaps combined by constants: what weights take to have q = 1."""
    return self.kind == "input" or (self.kind == "mixed" and self.sources[0].is_raw)

  @property
  def is_transparent(self) -> bool:
    """Whether its product with another signal is made of those of its sources."""
    return self.kind in _TRANSPARENT

  @property
  def follows_guess(self) -> bool:
    """Whether its size rests on a guessed gain since the last nonlinear layer or sum."""
    node = self
    while not node.has_guess and node.kind != "nonlinear" and len(node.sources) == 1:
      node = node.sources[0]
    return node.has_guess

  def comes_from(self, other: "Node") -> bool:
    """Whether it is another node, centred or normalised."""
    node = self
    while node is not other and node.kind in ("centred", "normalised", "reported"):
      node = node.sources[0]
    return node is other

  def has_passed(self, leaf: str) -> bool:
    """Whether a parameter, one of its parts, or what it is part of was used before."""
    names = (leaf, *wholes(leaf))
    return any(name in self.passed for name in names) or leaf in self.passed_parts_of


def wholes(leaf: str) -> list[str]:
  """What a part of a parameter, such as ``w[2][0:3]``, is part of."""
  return [leaf[:position] for position, letter in enumerate(leaf) if letter == "["]


def ends_fresh(one: Node, other: Node) -> bool:
  """Whether a signal ends with weights that the other has never seen."""
  return one.kind == "affine" and bool(one.leaves) and not one.leaves & other.passed
