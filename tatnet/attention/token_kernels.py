"""The kernel over tokens of a wide network at its start, layer by layer."""

from collections.abc import Iterable

import numpy as np

from tatnet.layer.fields import shown
from tatnet.layer.interpolation import AngularMap
from tatnet.layer.kernels import RectifierKernel, rectifier_bend
from tatnet.layer.maps import LocalMaps
from tatnet.layer.record import TransformedActivation, as_transformed

_MANY = 100  # cosines, from which on a polynomial is cheaper than an integral for each
_EVEN = 1e-9


def token_kernels(
  kernel: np.ndarray, layers: Iterable[np.ndarray | TransformedActivation | str]
) -> list[np.ndarray]:
  """What attention and nonlinear layers do to the kernel over tokens.

  In the limit of infinite width, with ``K_ij`` the mean product of the features of tokens i
  and j: an attention layer whose matrix does not depend on the data gives ``A K A'``, affine
  layers change nothing, and a nonlinear layer maps each entry by the two-q map,
  ``sqrt(Q(q_i) Q(q_j)) C(c; q_i, q_j)``, q_i being the diagonal.

  Args:
    kernel: that of the input, shape [tokens, tokens]; q on its diagonal.
    layers: in the order of the signal, a matrix [tokens, tokens] for an attention layer, and
      the activation (a name, or a record) for a nonlinear one.

  Returns:
    The kernel behind each layer, float64 arrays [tokens, tokens].

  Raises:
    ValueError: a kernel that is none, a matrix of another size, an unknown name.
    TypeError: a layer of another kind.

  Reference:
    He et al. (arXiv 2302.10322) for attention; Martens et al. (arXiv 2110.01765) for the maps.

  Example:
    >>> causal_mean = np.tril(np.ones([3, 3])) / np.arange(1, 4)[:, None]
    >>> behind, = tatnet.attention.token_kernels(np.eye(3), [causal_mean])
    >>> behind.round(3).tolist()
    [[1.0, 0.5, 0.333], [0.5, 0.5, 0.333], [0.333, 0.333, 0.333]]
  """
  kernel = np.array(kernel, np.float64)
  if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not _is_kernel(kernel):
    raise ValueError(
      f"token_kernels got a kernel of shape {kernel.shape}; expected a symmetric matrix [tokens,"
      " tokens] of finite numbers, with q values above 0 on its diagonal."
    )
  found = []
  for layer in layers:
    if isinstance(layer, str | TransformedActivation) or callable(layer):
      kernel = _behind_nonlinear(kernel, as_transformed(layer).maps)
    else:
      kernel = _behind_attention(kernel, layer)
    found.append(kernel)
  return found


def _is_kernel(kernel: np.ndarray) -> bool:
  is_even = np.allclose(kernel, kernel.T, rtol=1e-9, atol=1e-12)
  return bool(np.isfinite(kernel).all() and is_even and (np.diag(kernel) > 0).all())


def _behind_attention(kernel: np.ndarray, layer) -> np.ndarray:
  try:
    matrix = np.asarray(layer, np.float64)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"token_kernels got the layer {shown(layer)}; expected a matrix [tokens, tokens] for attention,"
      " or an activation."
    ) from error
  if matrix.shape != kernel.shape:
    raise ValueError(
      f"token_kernels got an attention matrix of shape {matrix.shape} for a kernel of shape"
      f" {kernel.shape}; expected the same."
    )
  return matrix @ kernel @ matrix.T


def _behind_nonlinear(kernel: np.ndarray, maps: LocalMaps) -> np.ndarray:
  q = np.diag(kernel)
  sizes = np.sqrt(np.outer(q, q))
  cosines = np.clip(kernel / sizes, -1.0, 1.0)
  np.fill_diagonal(cosines, 1.0)
  if isinstance(maps.kernel, RectifierKernel):
    return _rectified(cosines, sizes, maps)
  is_even = np.ptp(q) <= _EVEN * q[0]
  after = np.sqrt(maps.Q(np.full(len(q), q[0])) if is_even else maps.Q(q))
  if is_even:
    mapped = _by_one_q(cosines, float(q[0]), maps)
  else:
    upper = np.triu_indices(len(q), 1)
    mapped = np.eye(len(q))
    mapped[upper] = maps.C(cosines[upper], q[upper[0]], q[upper[1]])
    mapped = np.triu(mapped) + np.triu(mapped, 1).T
  return mapped * np.outer(after, after)


def _rectified(cosines: np.ndarray, sizes: np.ndarray, maps: LocalMaps) -> np.ndarray:
  """Rectifiers are homogeneous: their C map is the same at every q."""
  bend = rectifier_bend(maps.kernel.negative_slope)
  mapped = cosines + bend * (np.sqrt(1 - cosines**2) - cosines * np.arccos(cosines))
  gain = maps.weight_variance * maps.kernel(0, 1.0, 1.0, 1.0)
  return gain * sizes * mapped + maps.bias_variance


def _by_one_q(cosines: np.ndarray, q: float, maps: LocalMaps) -> np.ndarray:
  """The C map where all tokens have one q: each different cosine once, or a polynomial for many."""
  different, places = np.unique(cosines.round(15), return_inverse=True)
  interpolant = AngularMap(maps, q, 128) if len(different) > _MANY else None
  if interpolant is not None and interpolant.has_converged:
    mapped = interpolant(different)
  else:
    mapped = maps.C(different, q, q)
  return mapped[places].reshape(cosines.shape)
