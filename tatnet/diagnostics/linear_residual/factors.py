"""Factors near the identity whose product is a given matrix."""

import math
from typing import Any

import numpy as np

from tatnet.diagnostics.linear_residual.checks import check_layers, square_matrix
from tatnet.diagnostics.linear_residual.rotations import largest_angle, rotation_root


def log_condition(target: Any) -> float:
  r"""How far a matrix is from an isometry: :math:`\gamma = \max |\log \sigma_i(R)|`.

  Args:
    target: R, ``[d, d]``.

  Returns:
    gamma; infinite for a singular matrix.

  Raises:
    ValueError: not a finite square matrix.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 2.1.

  Example:
    >>> round(tatnet.diagnostics.linear_residual.log_condition(np.diag([0.5, 4.0])), 6)
    1.386294
  """
  values = np.linalg.svd(square_matrix(target, "log_condition"), compute_uv=False)
  return float(np.abs(np.log(values)).max()) if values[-1] > 0 else float("inf")


def small_norm_bound(gamma: float, layers: int) -> float:
  r"""The norm that suffices for the factors: :math:`2 (\sqrt\pi + \sqrt{3 \gamma})^2 / \ell`.

  Args:
    gamma: see `log_condition`.
    layers: :math:`\ell \ge 3 \gamma`.

  Returns:
    The bound on :math:`\max_i \|A_i\|`.

  Raises:
    ValueError: a negative gamma, or too few layers.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 2.1.

  Example:
    >>> round(tatnet.diagnostics.linear_residual.small_norm_bound(1.84, 200), 3)
    0.17
  """
  if not gamma >= 0:
    raise ValueError(f"small_norm_bound got gamma={gamma!r}; expected a number of at least 0.")
  check_layers("small_norm_bound", layers, gamma)
  return 2 * (math.sqrt(math.pi) + math.sqrt(3 * gamma)) ** 2 / layers


def small_norm_factors(target: Any, layers: int) -> np.ndarray:
  r"""Factors near the identity whose product is a given matrix.

  With the polar decomposition :math:`R = W P`, W a rotation and P positive definite,

  .. math:: R = (W^{1/q})^q (P^{1/p})^p, \qquad p + q = \ell,

  and :math:`A_i` is :math:`P^{1/p} - I` in the first p layers, :math:`W^{1/q} - I` in the others. Their
  norms are at most :math:`e^{\gamma / p} - 1` and :math:`2 \sin(\pi / 2q)`; p is the integer with
  the smallest maximum of the two. The theorem's proof takes roots of the two
  rotations of the singular value decomposition in place of W, which needs twice as many
  layers for them.

  Args:
    target: R, ``[d, d]``, with positive determinant.
    layers: :math:`\ell`, at least :math:`3 \gamma`.

  Returns:
    :math:`A_1, \dots, A_\ell` as ``[layers, d, d]``, the one that acts first in front. The
    largest spectral norm is at most `small_norm_bound`.

  Raises:
    ValueError: not a finite square matrix, a determinant that is not positive, or too few
      layers.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 2.1, which holds for positive determinants only.

  Example:
    >>> target = np.array([[0.0, -2.0], [1.0, 0.0]])
    >>> factors = tatnet.diagnostics.linear_residual.small_norm_factors(target, 100)
    >>> np.allclose(tatnet.diagnostics.linear_residual.end_to_end(factors), target, atol=1e-12)
    True
    >>> round(float(np.linalg.norm(factors, 2, axis=(1, 2)).max()), 4)
    0.0228
  """
  matrix = square_matrix(target, "small_norm_factors")
  sign, _ = np.linalg.slogdet(matrix)
  u, values, vt = np.linalg.svd(matrix)
  if sign <= 0 or values[-1] == 0:
    kind = "negative" if sign < 0 else "zero"
    raise ValueError(
      f"small_norm_factors got a matrix of shape {matrix.shape} with a {kind} determinant; expected"
      " a positive one. Every I + A_i with a norm of A_i below 1 has a positive determinant, and so"
      " has their product: no factors near the identity make this matrix. "
      + (
        "Change the sign of one row (in a network, of one output) and factorise that."
        if sign < 0
        else "Add a small multiple of the identity, or leave out the directions that it maps to 0."
      )
    )
  logs = np.log(values)
  check_layers("small_norm_factors", layers, np.abs(logs).max())
  rotation, identity = u @ vt, np.eye(len(matrix))

  count = _stretching_layers(layers, logs, largest_angle(rotation))
  factors = np.empty([layers, *matrix.shape])
  if count < layers:
    factors[count:] = rotation_root(rotation, layers - count) - identity
  if count:
    factors[:count] = (vt.T * np.expm1(logs / count)) @ vt
  if layers == 1:
    factors[0] = matrix - identity
  return factors


def _stretching_layers(layers: int, logs: np.ndarray, angle: float) -> int:
  """The number of layers for the positive definite part that makes the largest norm smallest."""
  is_stretched, is_turned = np.abs(logs).max() > 1e-15, angle > 1e-15
  counts = np.arange(int(is_stretched), layers + 1 - int(is_turned))
  if layers == 1 or not counts.size:
    return 0
  with np.errstate(divide="ignore", over="ignore"):
    stretched = np.expm1(np.abs(logs).max() / np.maximum(counts, 1))
    turned = 2 * np.sin(np.minimum(angle / np.maximum(2 * (layers - counts), 1), np.pi / 2))
  return int(counts[np.argmin(np.maximum(stretched * is_stretched, turned * is_turned))])
