"""The arguments that all networks share, and which of their combinations make sense."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Literal, TypedDict, get_args

import haiku as hk
import jax

from tatnet.layer.record import TransformedActivation

ActivationFunction = Callable[[jax.Array], jax.Array]
Normalization = Literal["batch", "layer", "weight"]
Shortcut = Literal["projection", "pool", "pool+projection"]


class NetworkOptions(TypedDict, total=False):
  """Keyword arguments of every network; `Options` explains them."""

  activation: ActivationFunction
  shortcut_weight: float | None
  normalization: Normalization | None
  shortcut: Shortcut
  residual_gain: float | None
  dropout_rate: float
  stacked: bool
  w_init: hk.initializers.Initializer | None
  branch_init: hk.initializers.Initializer | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """How a network of a given plan is built.

  Attributes:
    activation: a `TransformedActivation`, or any elementwise function.
    shortcut_weight: w for the normalised sum ``w * shortcut + sqrt(1 - w^2) * branch``;
      0 for no shortcuts, and no layers on them; None for the ordinary sum.
    normalization: None; "batch" or "layer" before every activation; "weight" for
      weights that are direction and length (Salimans & Kingma), equal at
      initialisation to those without.
    shortcut: where a block changes the shape: "projection" (1x1 convolution), "pool"
      (average pooling, zeros for the new channels), or "pool+projection", the sum
      of the convolution and of a pooling whose singular values are 1 (MacDonald et
      al.).
    residual_gain: initial value of a trainable factor on every branch; 0 is SkipInit.
      None: no such factor.
    dropout_rate: in front of the last layer, while training.
    stacked: equal blocks in a row share one compiled body, with their weights stacked
      on a leading axis. Compiles fast at any depth; convolutions in such a loop are
      slow on CPU.
    w_init: initialiser of the hidden layers. None: scaled uniform orthogonal for a
      transformed activation, He initialisation for any other function.
    branch_init: initialiser of the layers of the branches, where it is another one.

  Raises:
    TypeError: an argument of the wrong kind.
    ValueError: an argument out of range, or a combination that makes no sense.

  Example:
    >>> tatnet.nets.Options(activation=jax.nn.relu, shortcut_weight=0.8).is_shaped
    False
  """

  activation: ActivationFunction
  shortcut_weight: float | None = 0.0
  normalization: Normalization | None = None
  shortcut: Shortcut = "projection"
  residual_gain: float | None = None
  dropout_rate: float = 0.0
  stacked: bool = False
  w_init: hk.initializers.Initializer | None = None
  branch_init: hk.initializers.Initializer | None = None

  def __post_init__(self):
    if not callable(self.activation):
      raise TypeError(
        f"activation={self.activation!r}; expected a function of arrays, such as the result of"
        " tatnet.transform_activation, or jax.nn.relu."
      )
    check_shortcut_weight(self.shortcut_weight)
    if self.normalization not in (None, *get_args(Normalization)):
      raise ValueError(
        f"normalization={self.normalization!r}; expected None, {', '.join(map(repr, get_args(Normalization)))}."
      )
    if self.shortcut not in get_args(Shortcut):
      raise ValueError(
        f"shortcut={self.shortcut!r}; expected one of {', '.join(map(repr, get_args(Shortcut)))}."
      )
    if not 0 <= self.dropout_rate < 1:
      raise ValueError(f"dropout_rate={self.dropout_rate!r}; expected a number in [0, 1).")
    if self.shortcut == "pool+projection" and self.shortcut_weight:
      raise ValueError(
        f"shortcut='pool+projection' with shortcut_weight={self.shortcut_weight}: that shortcut is"
        " itself a sum, which does not keep q values. Expected shortcut_weight=None, or"
        " shortcut='projection'."
      )
    if self.residual_gain is not None and self.shortcut_weight is not None:
      raise ValueError(
        f"residual_gain={self.residual_gain!r} with shortcut_weight={self.shortcut_weight!r}: a"
        " trainable factor is for the ordinary sum. Expected shortcut_weight=None."
      )
    if self.is_shaped:
      self._check_shaped()

  def _check_shaped(self):
    if self.normalization == "batch":
      raise ValueError(
        f"normalization='batch' with {self.activation!r}: batch normalisation makes the kernel"
        " depend on the batch, and undoes what DKS and TAT shape. Expected None, 'layer' or"
        " 'weight', or a function that is not transformed, such as jax.nn.relu."
      )
    if self.shortcut_weight is None:
      raise ValueError(
        f"shortcut_weight=None with {self.activation!r}: an ordinary sum increases q in every"
        " block. Expected a number w in [0, 1), for the weights w and sqrt(1 - w^2)."
      )

  @property
  def is_shaped(self) -> bool:
    """Whether the activation was solved for."""
    return isinstance(self.activation, TransformedActivation)


def check_shortcut_weight(shortcut_weight: float | None) -> None:
  """Raises ValueError unless it is None or a number in [0, 1)."""
  if shortcut_weight is None:
    return
  is_number = isinstance(shortcut_weight, numbers.Real) and not isinstance(shortcut_weight, bool)
  if not is_number or not 0 <= shortcut_weight < 1:
    raise ValueError(
      f"shortcut_weight={shortcut_weight!r}; expected a number w in [0, 1) (0: no shortcuts), for"
      " the weights w and sqrt(1 - w^2), or None for the ordinary sum."
    )


def residual_weights(shortcut_weight: float | None) -> tuple[float, float]:
  """Weights of shortcut and branch."""
  if shortcut_weight is None:
    return 1.0, 1.0
  return float(shortcut_weight), math.sqrt(1 - shortcut_weight**2)
