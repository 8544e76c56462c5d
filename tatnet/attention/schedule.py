"""`AttentionSchedule`: how every attention layer of a network starts, as a record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tatnet.attention.checks import check_count, check_flag, check_tokens
from tatnet.attention.exponential import ExponentialLayer
from tatnet.attention.layer import AttentionLayer
from tatnet.attention.uniform import UniformLayer
from tatnet.layer.fields import is_number, shown

_FAMILIES = {"uniform": UniformLayer, "exponential": ExponentialLayer}
_NAMES = {family: name for name, family in _FAMILIES.items()}


@dataclasses.dataclass(frozen=True)
class AttentionSchedule:
  """The attention layers of a network as they start, in the order of the signal.

  A frozen, hashable record, made by `attention_schedule`, `uniform_schedule` or
  `exponential_schedule`. Layers are counted from 0. Layer l starts as the matrix
  ``A = diag(row_scale) softmax(log_attention)``, whatever the data are: queries start at zero,
  `log_attention` is added to the logits, and the output at each location is multiplied by
  `row_scale`. Everything is float64, and of any length.

  Attributes:
    layers: a `UniformLayer` or an `ExponentialLayer` for each attention layer.
    causal: whether tokens read none after them.
    tokens: the one length that it is for, where there is no closed form for others.
    keeps_q: whether q is 1 behind each of them in the network that it was planned for. A
      schedule that was planned for attention alone keeps it only without nonlinear layers.

  Raises:
    TypeError: a field of another kind.
    ValueError: layers that are not all causal, or all not; a length that is none.

  Example:
    >>> topology = tatnet.sequence(*[tatnet.mixing(0.05), tatnet.chain(2)] * 12)
    >>> act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.9))
    >>> schedule = tatnet.attention_schedule(topology, act, causal=True)
    >>> len(schedule), round(schedule.kernel(0), 6)
    (12, 0.05)
    >>> kernel = schedule.as_matrix(0, 8) @ schedule.as_matrix(0, 8).T
    >>> np.diag(kernel).round(12).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> AttentionSchedule.from_dict(schedule.to_dict()) == schedule
    True
  """

  layers: tuple[AttentionLayer, ...]
  causal: bool = True
  tokens: int | None = None
  keeps_q: bool = False

  def __post_init__(self):
    if not isinstance(self.layers, list | tuple) or not all(
      isinstance(layer, tuple(_NAMES)) for layer in self.layers
    ):
      raise TypeError(
        f"AttentionSchedule got layers={shown(self.layers)}; expected a tuple of UniformLayer and"
        " ExponentialLayer."
      )
    object.__setattr__(self, "layers", tuple(self.layers))
    for field in ("causal", "keeps_q"):
      check_flag("AttentionSchedule", field, getattr(self, field))
    if any(layer.causal != self.causal for layer in self.layers):
      raise ValueError(
        f"AttentionSchedule got causal={self.causal} and layers that are not; expected layers that"
        " agree with it."
      )
    if self.tokens is not None:
      check_count("AttentionSchedule", "tokens", self.tokens)
    elif not all(map(_has_any_length, self.layers)):
      raise ValueError(
        "AttentionSchedule got tokens=None and exponential kernels without the order of tokens, whose"
        " symmetric roots have no closed form; expected the length that they are for, or"
        " causal=True."
      )

  def __len__(self) -> int:
    return len(self.layers)

  def __getitem__(self, layer: int) -> AttentionLayer:
    """One layer, counted from 0; from -1 backwards.

    Raises:
      TypeError: layer is not an integer.
      ValueError: there is no such layer.
    """
    number = check_count("AttentionSchedule", "layer", layer, least=-len(self.layers))
    if number >= len(self.layers):
      raise ValueError(
        f"AttentionSchedule has no layer {number}; expected 0 to {len(self.layers) - 1}: it has"
        f" {len(self.layers)} attention layers."
      )
    return self.layers[number]

  def row_scale(self, layer: int, tokens: int) -> np.ndarray:
    """What the output of attention is multiplied by at each location.

    Args:
      layer: which attention layer, from 0.
      tokens: length of the sequence.

    Returns:
      A float64 array [tokens].

    Raises:
      TypeError: an argument that is no integer.
      ValueError: a layer that there is not, or a length that it is not for.
    """
    return self[layer].row_scale(self._checked(tokens))

  def log_attention(self, layer: int, tokens: int) -> np.ndarray:
    """What is added to the logits.

    Args:
      layer: which attention layer, from 0.
      tokens: length of the sequence.

    Returns:
      A float64 array [tokens, tokens] (reading token, read token); -inf where nothing is read.

    Raises:
      TypeError, ValueError: as `row_scale`.
    """
    return self[layer].log_attention(self._checked(tokens))

  def as_matrix(self, layer: int, tokens: int) -> np.ndarray:
    """The matrix with which attention starts.

    Args:
      layer: which attention layer, from 0.
      tokens: length of the sequence.

    Returns:
      A float64 array [tokens, tokens] of entries of at least 0.

    Raises:
      TypeError, ValueError: as `row_scale`.
    """
    return self[layer].as_matrix(self._checked(tokens))

  def kernel(self, layer: int) -> float:
    """The cosine of two tokens that is predicted behind an attention layer.

    Args:
      layer: which attention layer, from 0.

    Returns:
      That of any two tokens; of neighbours, for an exponential kernel.

    Raises:
      TypeError, ValueError: as `row_scale`.
    """
    return self[layer].cosine

  def _checked(self, tokens: int) -> int:
    check_tokens(tokens)
    if self.tokens is not None and tokens != self.tokens:
      raise ValueError(
        f"AttentionSchedule got tokens={tokens}; expected {self.tokens}, the one length that it is for:"
        " its roots have no closed form. Make a schedule of the other length, or take a uniform or a"
        " causal one, which are of any length."
      )
    return tokens

  def to_dict(self) -> dict[str, Any]:
    """Its numbers, ready for JSON."""
    layers = [
      {"family": _NAMES[type(layer)], "before": _number(layer.before), "after": layer.after}
      for layer in self.layers
    ]
    return {
      "causal": self.causal,
      "tokens": self.tokens,
      "keeps_q": self.keeps_q,
      "layers": layers,
    }

  @classmethod
  def from_dict(cls, data: Mapping[str, Any]) -> "AttentionSchedule":
    """Rebuilds what `to_dict` wrote.

    Args:
      data: the dictionary.

    Returns:
      The schedule.

    Raises:
      ValueError: other fields, or numbers that make no schedule.
      TypeError: something that is no dictionary, or a field of another kind.
    """
    if not isinstance(data, Mapping):
      raise TypeError(f"from_dict got {shown(data)}; expected the dictionary that to_dict made.")
    if set(data) != {"causal", "tokens", "keeps_q", "layers"}:
      raise ValueError(
        f"from_dict got the fields {shown(sorted(data, key=str))}; expected 'causal', 'keeps_q',"
        " 'layers' and 'tokens'."
      )
    if not isinstance(data["layers"], list | tuple):
      raise TypeError(f"from_dict got layers={shown(data['layers'])}; expected a list.")
    layers = tuple(_layer(entry, data["causal"]) for entry in data["layers"])
    return cls(layers, data["causal"], data["tokens"], data["keeps_q"])


def _has_any_length(layer: AttentionLayer) -> bool:
  return layer.causal or isinstance(layer, UniformLayer)


def _number(value: float) -> float | str:
  """JSON has no infinity."""
  return "inf" if value == float("inf") else value


def _layer(entry: Any, causal: Any) -> AttentionLayer:
  check_flag("from_dict", "causal", causal)
  if not isinstance(entry, Mapping) or set(entry) != {"family", "before", "after"}:
    raise ValueError(
      f"from_dict got the layer {shown(entry)}; expected a dictionary of 'family', 'before' and"
      " 'after'."
    )
  if entry["family"] not in _FAMILIES:
    raise ValueError(
      f"from_dict got the family {shown(entry['family'])}; expected one of {sorted(_FAMILIES)}."
    )
  before = entry["before"]
  before = float("inf") if before == "inf" and not is_number(before) else before
  return _FAMILIES[entry["family"]](before, entry["after"], causal)
