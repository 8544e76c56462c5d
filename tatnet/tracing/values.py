"""What the reader knows about a value of the program: the abstract domain.

* `Known`: a constant with the same number in every entry.
* `Data`: everything else that does not depend on the signal: integers, random
  bits, dropout masks, running statistics, constant arrays.
* `Weights`: computed from parameters alone.
* `Signal`: ``expression(scale * node)``, elementwise in a unit-q node.
* `Statistic`: a reduction of a signal, which is either pooled or normalises.
* `Unreadable`: a signal after something that the reader has reported.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from tatnet.tracing.expressions import VARIABLE, Expression
from tatnet.tracing.nodes import Node


@dataclasses.dataclass(frozen=True)
class Known:
  """A uniform constant."""

  value: float


@dataclasses.dataclass(frozen=True)
class Data:
  """A value that does not depend on the signal.

  Attributes:
    kind: "array", "input" (integers), "random", "uniform", "mask" (of dropout) or "state"
      (running statistics).
    keep: for masks the probability of True.
    low: for uniform random numbers the least; they reach 1 further.
    scale: for masks the value of True.
    size: for masks the number of entries that are drawn, for running statistics their own.
    name: of the integer input that it is.
    array: the constant itself, where it is known.
  """

  kind: str = "array"
  keep: float = 1.0
  low: float = 0.0
  scale: float = 1.0
  size: int = 0
  name: str = ""
  array: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Weights:
  """A value computed from parameters.

  Attributes:
    leaves: names of the parameters.
    initial: the number that all entries have at initialisation; None if they
      differ or it is not known.
    certain: whether the initial values are known at all.
    factor, degree: they are of the size ``factor * inputs ** (-degree / 2)``; see
      `tatnet.tracing.weights`.
    form: "random" for entries of mean 0, "mean" for an average of such, "squares" for their
      squares, "number" for what is made of sums of squares.
    is_unknown: whether something was done to them that leaves no size that is known.
    gains: parameters of unknown value that they were multiplied by, taken to start at 1.
    size: number of entries of the parameter.
    array: the parameter itself, where it is known and nothing was done to it.
    standardised: whether an average over them was subtracted.
    is_integer: whether it is stored as integers, whose scale says nothing.
  """

  leaves: frozenset[str]
  initial: float | None = None
  certain: bool = True
  factor: float = 1.0
  degree: float = 1.0
  form: str = "random"
  is_unknown: bool = False
  gains: frozenset[str] = frozenset()
  size: int = 0
  array: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
  standardised: bool = False
  is_integer: bool = False


@dataclasses.dataclass(frozen=True)
class Signal:
  """An elementwise function of a unit-q node, in some arrangement of its axes.

  Attributes:
    node: the node.
    scale: factor on the unit signal before the expression.
    axes: for each axis what it is: "b" for the batch, "f" for features, "s" for space.
    expression: the elementwise function; VARIABLE for the scaled signal itself.
    layout: structural operations since the node, to tell whether two signals line up.
    place: where the nonlinear part of the expression begins.
    softmax: whether it was normalised by the sum of its own entries.
    is_unsure: whether a parameter that was reported acts on it.
  """

  node: Node
  scale: float
  axes: tuple[str, ...]
  expression: Expression = VARIABLE
  layout: tuple = ()
  place: str = ""
  softmax: bool = False
  is_unsure: bool = False

  @property
  def is_linear(self) -> bool:
    """Whether nothing but a factor stands between the node and the signal."""
    return self.expression is VARIABLE

  @property
  def coefficient(self) -> float:
    """Factor on the unit node before the expression, with reported sums mended."""
    return self.scale / self.node.corrected


@dataclasses.dataclass(frozen=True)
class Statistic:
  """A sum, mean or maximum over axes of a signal, and what was computed from it.

  Attributes:
    node: the node of the signal that was reduced.
    value: the number that it has on average at initialisation.
    axes: as in `Signal`, those that are left.
    over: labels of the axes that the reduction ran over.
    pooled: makes the signal that it is if nothing is normalised by it.
    source: the function that was summed, as long as nothing else was computed.
    is_maximum: whether it is a maximum.
    size: number of entries that it was made of.
  """

  node: Node
  value: float
  axes: tuple[str, ...]
  over: frozenset[str]
  pooled: Callable[[], Signal | None] | None
  source: Expression | None = None
  is_maximum: bool = False
  size: int = 1


@dataclasses.dataclass(frozen=True)
class Unreadable:
  """Stands for a signal where reading had to give up.

  Attributes:
    node: the reported node that it came from, if what is wrong may not matter.
  """

  node: Node | None = None


Value = Known | Data | Weights | Signal | Statistic | Unreadable
