"""What every planned attention layer can say of itself."""

import abc
from typing import NamedTuple

import numpy as np


class Vectors(NamedTuple):
  """What the entries of an attention matrix are made of, without a table of them.

  Attributes:
    columns: by the token that is read, shape [tokens].
    rows: by the token that reads.
    diagonal: entries of tokens with themselves.
    scale: sums of the rows.
  """

  columns: np.ndarray
  rows: np.ndarray
  diagonal: np.ndarray
  scale: np.ndarray


class AttentionLayer(abc.ABC):
  """One attention layer as it starts: ``A = diag(row_scale) softmax(log_attention)``, in float64.

  Attributes:
    causal: whether tokens read none after them.

  Example:
    >>> layer = tatnet.attention.uniform_schedule(12)[0]
    >>> isinstance(layer, tatnet.attention.AttentionLayer), layer.causal
    (True, True)
  """

  causal: bool

  @property
  @abc.abstractmethod
  def cosine(self) -> float:
    """The cosine of two tokens (of neighbours, where pairs differ) behind it."""

  @property
  @abc.abstractmethod
  def is_identity(self) -> bool:
    """Whether it changes nothing."""

  @abc.abstractmethod
  def row_scale(self, tokens: int) -> np.ndarray:
    """The sums of the rows, shape [tokens]."""

  @abc.abstractmethod
  def log_attention(self, tokens: int) -> np.ndarray:
    """Logarithms of the entries, shape [tokens, tokens]; -inf where an entry is 0."""

  @abc.abstractmethod
  def as_matrix(self, tokens: int) -> np.ndarray:
    """The matrix A, shape [tokens, tokens]."""

  @abc.abstractmethod
  def as_kernel(self, tokens: int) -> np.ndarray:
    """The kernel that it is planned to leave, shape [tokens, tokens]."""
