"""U-SPA in closed form: attention between kernels whose off-diagonals are all equal.

``K(rho) = (1 - rho) I + rho 11'``. The matrix A with ``A K(before) A' = K(after)`` is found from
Cholesky factors where tokens see only those before them, and from symmetric roots where they
see all. Both have closed forms; no table of tokens by tokens is made unless it is asked for.
"""

import dataclasses

import numpy as np

from tatnet.attention.checks import as_cosine, check_tokens
from tatnet.attention.layer import AttentionLayer, Vectors


@dataclasses.dataclass(frozen=True)
class UniformLayer(AttentionLayer):
  """One attention layer that moves the cosine of all pairs of tokens at once.

  Attributes:
    before: the cosine of any two tokens before it, in [0, 1).
    after: the cosine behind it, at least as large.
    causal: whether tokens read none after them.

  Raises:
    ValueError: a cosine outside of [0, 1), or a kernel that shrinks.
    TypeError: a field of another kind.

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322), uniform kernels; proofs
    of the closed forms and of non-negativity in the page on the theory of attention.

  Example:
    >>> layer = tatnet.attention.UniformLayer(0.2, 0.4, causal=False)
    >>> layer.as_matrix(5)[0].round(6).tolist()
    [0.93319, 0.067165, 0.067165, 0.067165, 0.067165]
    >>> layer.row_scale(5)[0].round(6).item()
    1.20185
  """

  before: float
  after: float
  causal: bool = True

  def __post_init__(self):
    for field in ("before", "after"):
      object.__setattr__(self, field, as_cosine("UniformLayer", field, getattr(self, field)))
    if self.after < self.before:
      raise ValueError(
        f"UniformLayer got before={self.before:g} and after={self.after:g}; expected a cosine that does"
        " not fall: attention sums tokens with weights that are not negative, and cannot take them"
        " apart. Let after be at least before."
      )

  @property
  def step(self) -> float:
    """The share of the way to 1 by which it moves cosines."""
    return (self.after - self.before) / (1 - self.before)

  @property
  def cosine(self) -> float:
    """The cosine of two tokens behind it."""
    return self.after

  @property
  def is_identity(self) -> bool:
    """Whether it changes nothing."""
    return self.after == self.before

  def row_scale(self, tokens: int) -> np.ndarray:
    """The sums of the rows, shape [tokens]."""
    check_tokens(tokens)
    if not self.causal:
      shrink, shared = self._parts(np.array([tokens]))
      return np.full(tokens, shrink + tokens * shared[0])
    old, new = _Cholesky(self.before, tokens), _Cholesky(self.after, tokens)
    # Of L_after L_before^-1 1; every term is positive, so that nothing cancels.
    solved = (1 - self.before) / (old.norm * old.diagonal)
    earlier = np.concatenate([[0.0], np.cumsum(new.below * solved)[:-1]])
    return earlier + new.diagonal * solved

  def log_attention(self, tokens: int) -> np.ndarray:
    """Logarithms of the entries, shape [tokens, tokens]; -inf where an entry is 0."""
    return _log(self.as_matrix(tokens))

  def as_matrix(self, tokens: int) -> np.ndarray:
    """The matrix A, shape [tokens, tokens]."""
    check_tokens(tokens)
    if not self.causal:
      shrink, shared = self._parts(np.array([tokens]))
      return shrink * np.eye(tokens) + shared[0]
    vectors = self.vectors(tokens)
    entries = np.tril(vectors.columns[None, :] - vectors.rows[:, None], -1)
    return np.maximum(entries, 0.0) + np.diag(vectors.diagonal)

  def as_kernel(self, tokens: int) -> np.ndarray:
    """The kernel that it is planned to leave, shape [tokens, tokens]."""
    check_tokens(tokens)
    return (1 - self.after) * np.eye(tokens) + self.after

  def vectors(self, tokens: int) -> Vectors:
    """The numbers of which every entry is made: ``A_ij = columns_j - rows_i`` for i > j.

    Without the order of tokens they are by the number of tokens: entries off the diagonal
    in `columns`, those on it in `diagonal`.
    """
    check_tokens(tokens)
    if not self.causal:
      counts = np.arange(1, tokens + 1)
      shrink, shared = self._parts(counts)
      return Vectors(shared, np.zeros(tokens), shrink + shared, shrink + counts * shared)
    if self.is_identity:  # exactly, where sums would leave their rounding
      return Vectors(np.zeros(tokens), np.zeros(tokens), np.ones(tokens), np.ones(tokens))
    old, new = _Cholesky(self.before, tokens), _Cholesky(self.after, tokens)
    passed = new.below * old.weight / old.diagonal
    # Sums from the end: what is left of them is as small as the entries that they make.
    later = np.cumsum(passed[::-1])[::-1]
    columns = new.below / old.diagonal - (later - passed)
    rows = new.diagonal * old.weight / old.diagonal - later
    return Vectors(columns, rows, new.diagonal / old.diagonal, self.row_scale(tokens))

  def _parts(self, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """a and b of ``A = a I + b 11'`` for each number of tokens."""
    shrink = np.sqrt((1 - self.after) / (1 - self.before))
    grown = (1 + (counts - 1) * self.after) / (1 + (counts - 1) * self.before)
    return float(shrink), (np.sqrt(grown) - shrink) / counts


class _Cholesky:
  """The factor of K(rho): `diagonal`, and `below`, what stands everywhere below it in a column.

  Attributes:
    norm: ``1 + (k - 1) rho`` for column k.
    weight: of each token before token k in its conditional mean.
  """

  def __init__(self, cosine: float, tokens: int):
    k = np.arange(tokens)
    self.norm = 1 + (k - 1) * cosine
    self.diagonal = np.sqrt((1 - cosine) * (1 + k * cosine) / self.norm)
    self.below = cosine * (1 - cosine) / (self.norm * self.diagonal)
    self.weight = cosine / self.norm


def _log(matrix: np.ndarray) -> np.ndarray:
  with np.errstate(divide="ignore"):
    return np.log(matrix)
