"""E-SPA: attention between kernels that fall off exponentially with the distance of tokens.

``K_ij = exp(-decay |i - j|)``. The causal matrix has a closed form, whose logarithm is linear in
the distance: a slope, a bonus for the token itself, and a column for the first token. Without
the order of tokens the symmetric roots have none, and are tables of one size.
"""

import dataclasses
import functools
import math

import numpy as np

from tatnet.attention.checks import as_decay, check_tokens
from tatnet.attention.layer import AttentionLayer

# Entries of symmetric roots that are 0 but for rounding, which a logarithm would keep.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class ExponentialLayer(AttentionLayer):
  """One attention layer between two exponential kernels.

  Attributes:
    before: decay of the kernel before it; infinity for tokens without anything in common.
    after: decay of the kernel behind it, above 0 and at most as large.
    causal: whether tokens read none after them.

  Raises:
    ValueError: a decay that is not above 0, or a kernel that shrinks.
    TypeError: a field of another kind.

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322), exponential kernels; the
    closed form is derived in the page on the theory of attention.

  Example:
    >>> layer = tatnet.attention.ExponentialLayer(math.inf, 0.2)
    >>> layer.as_matrix(3)[:, 0].round(6).tolist()  # from tokens without anything in common: 0.8187^i
    [1.0, 0.818731, 0.67032]
  """

  before: float
  after: float
  causal: bool = True

  def __post_init__(self):
    for field in ("before", "after"):
      object.__setattr__(self, field, as_decay("ExponentialLayer", field, getattr(self, field)))
    if not self.after <= self.before or self.after == math.inf:
      raise ValueError(
        f"ExponentialLayer got before={self.before:g} and after={self.after:g}; expected a finite decay"
        " that does not grow: attention sums tokens with weights that are not negative, and cannot"
        " take them apart. Let after be at most before."
      )

  @property
  def cosine(self) -> float:
    """The cosine of neighbouring tokens behind it."""
    return math.exp(-self.after)

  @property
  def is_identity(self) -> bool:
    """Whether it changes nothing."""
    return self.after == self.before

  @property
  def own(self) -> float:
    """The entry of a token with itself, from the second token on."""
    return _innovation(self.after) / _innovation(self.before)

  @property
  def others(self) -> float:
    """The entry of the token before, from the third token on; it falls by the decay from there."""
    # exp(-after) - exp(-before), without cancellation.
    return self.own * math.exp(-self.after) * -math.expm1(self.after - self.before)

  @property
  def first(self) -> float:
    """The second token's entry for the first."""
    return math.exp(-self.after) - math.exp(-self.before) * self.own

  def row_scale(self, tokens: int) -> np.ndarray:
    """The sums of the rows, shape [tokens]."""
    check_tokens(tokens)
    if not self.causal:
      return _symmetric(self.before, self.after, tokens).sum(axis=1)
    i = np.arange(1, tokens)
    # 1 + r + ... + r^(i - 2), r = exp(-after)
    reached = np.expm1(-self.after * (i - 1)) / math.expm1(-self.after)
    sums = self.own + self.others * reached + self.first * np.exp(-self.after * (i - 1))
    return np.concatenate([[1.0], sums])

  def log_attention(self, tokens: int) -> np.ndarray:
    """Logarithms of the entries, shape [tokens, tokens]; -inf where an entry is 0."""
    check_tokens(tokens)
    with np.errstate(divide="ignore"):
      if not self.causal:
        return np.log(_symmetric(self.before, self.after, tokens))
      i = np.arange(tokens)
      logs = np.log(self.others) - self.after * (i[:, None] - i[None, :] - 1)
      logs[:, 0] = np.log(self.first) - self.after * (i - 1)
    logs[i, i] = np.log(self.own)
    logs[0, 0] = 0.0
    return np.where(i[:, None] >= i[None, :], logs, -np.inf)

  def as_matrix(self, tokens: int) -> np.ndarray:
    """The matrix A, shape [tokens, tokens]."""
    return np.exp(self.log_attention(tokens))

  def as_kernel(self, tokens: int) -> np.ndarray:
    """The kernel that it is planned to leave, shape [tokens, tokens]."""
    check_tokens(tokens)
    return _kernel(self.after, tokens)


def _innovation(decay: float) -> float:
  """What of a token its neighbour does not say: ``sqrt(1 - exp(-2 decay))``."""
  return math.sqrt(-math.expm1(-2 * decay))


def _kernel(decay: float, tokens: int) -> np.ndarray:
  i = np.arange(tokens)
  distances = np.abs(i[:, None] - i[None, :])
  return np.eye(tokens) if decay == math.inf else np.exp(-decay * distances)


@functools.lru_cache(maxsize=128)
def _symmetric(before: float, after: float, tokens: int) -> np.ndarray:
  """The product of the symmetric root of one kernel and the inverse root of another."""
  if before == after:
    return _frozen(np.eye(tokens))
  values, vectors = np.linalg.eigh(_kernel(before, tokens))
  inverse = (vectors / np.sqrt(values)) @ vectors.T
  values, vectors = np.linalg.eigh(_kernel(after, tokens))
  matrix = (vectors * np.sqrt(values)) @ vectors.T @ inverse
  return _frozen(np.where(matrix < _ROUNDING, 0.0, matrix))


def _frozen(matrix: np.ndarray) -> np.ndarray:
  """Shared by whoever asks, so that nobody may write to it."""
  matrix.flags.writeable = False
  return matrix
