"""Risk of a linear residual network, its gradient, and how small that can be."""

from typing import Any

import numpy as np

from tatnet.diagnostics.linear_residual.checks import problem, stacked_factors


def end_to_end(factors: Any) -> np.ndarray:
  r"""The linear map of a network, :math:`(I + A_\ell) \cdots (I + A_1)`.

  Args:
    factors: ``[layers, d, d]``.

  Returns:
    The product, ``[d, d]``.

  Example:
    >>> print(tatnet.diagnostics.linear_residual.end_to_end(np.full([3, 1, 1], 0.1)).round(3))
    [[1.331]]
  """
  return prefixes(stacked_factors(factors, "end_to_end"))[-1]


def loss(factors: Any, target: Any, covariance: Any = None) -> float:
  r"""Excess risk :math:`f(A) - C = \|E \Sigma^{1/2}\|_F^2`, with E the end-to-end map less R.

  Args:
    factors: ``[layers, d, d]``.
    target: R, ``[d, d]``.
    covariance: Sigma, ``[d, d]``; None for the identity.

  Returns:
    The expected squared error less that of the noise.

  Raises:
    ValueError: shapes that disagree, or a covariance that is not one.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Claim 2.3.

  Example:
    >>> tatnet.diagnostics.linear_residual.loss(np.zeros([3, 2, 2]), np.diag([2.0, 3.0]))
    5.0
  """
  stack, matrix, sigma = problem(factors, target, covariance, "loss")
  error = prefixes(stack)[-1] - matrix
  return float(np.sum(error * (error @ sigma)))


def gradient(factors: Any, target: Any, covariance: Any = None) -> np.ndarray:
  r"""Gradient of `loss` with respect to every factor.

  .. math::
     \partial f / \partial A_i = 2 [(I + A_\ell) \cdots (I + A_{i+1})]^T \, E \Sigma \,
     [(I + A_{i-1}) \cdots (I + A_1)]^T

  Args:
    factors: ``[layers, d, d]``.
    target: R, ``[d, d]``.
    covariance: Sigma, ``[d, d]``; None for the identity.

  Returns:
    ``[layers, d, d]``.

  Raises:
    ValueError: shapes that disagree, or a covariance that is not one.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Lemma 2.4.

  Example:
    >>> slopes = tatnet.diagnostics.linear_residual.gradient(np.zeros([3, 1, 1]), [[2.0]])
    >>> print(slopes.ravel())
    [-2. -2. -2.]
  """
  stack, matrix, sigma = problem(factors, target, covariance, "gradient")
  return gradient_and_loss(stack, matrix, sigma)[0]


def gradient_lower_bound(
  factors: Any, target: Any, covariance: Any = None, tau: float | None = None
) -> float:
  r"""What the squared norm of the gradient is at least: no critical point is a bad one.

  If all :math:`\|A_i\| \le \tau < 1`,

  .. math::
     \|\nabla f\|_F^2 \ge 4 \ell (1 - \tau)^{2 (\ell - 1)} \sigma_{\min}(\Sigma) (f(A) - C).

  The paper prints the exponent :math:`\ell - 1` and :math:`\sigma_{\min}(\Sigma)^2`, which fail: with
  :math:`A_i = -\tau I` and :math:`\Sigma = I` the inequality above is an equality.

  Args:
    factors: ``[layers, d, d]``.
    target: R, ``[d, d]``.
    covariance: Sigma, ``[d, d]``; None for the identity.
    tau: bound on the factors' norms; None for the largest of them.

  Returns:
    The right-hand side.

  Raises:
    ValueError: shapes that disagree, or factors that are not within tau < 1.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 2.2, Equation 2.3, corrected.

  Example:
    >>> factors, target = np.full([4, 1, 1], -0.5), np.array([[2.0]])
    >>> bound = tatnet.diagnostics.linear_residual.gradient_lower_bound(factors, target)
    >>> slopes = tatnet.diagnostics.linear_residual.gradient(factors, target)
    >>> round(bound, 6), round(float(np.sum(slopes**2)), 6)
    (0.938477, 0.938477)
  """
  stack, matrix, sigma = problem(factors, target, covariance, "gradient_lower_bound")
  largest = largest_norm(stack)
  tau = largest if tau is None else tau
  if not largest <= tau * (1 + 1e-12) or not tau < 1:
    raise ValueError(
      f"gradient_lower_bound got factors of norms up to {largest:.6g} and tau={tau:.6g}; expected"
      " norms up to tau, and tau below 1. Outside of that region there may be bad critical points."
    )
  layers = len(stack)
  smallest = float(np.linalg.eigvalsh(sigma)[0])
  return 4 * layers * (1 - tau) ** (2 * (layers - 1)) * smallest * loss(stack, matrix, sigma)


def gradient_and_loss(stack, matrix, sigma):
  """Gradient and loss."""
  products = prefixes(stack)
  error = products[-1] - matrix
  above = error @ sigma
  value = float(np.sum(error * above))
  slopes = np.empty_like(stack)
  for layer in reversed(range(len(stack))):
    slopes[layer] = 2 * above @ products[layer].T
    above = above + stack[layer].T @ above
  return slopes, value


def prefixes(stack):
  """Products of the first 0, 1, ... layers."""
  products = [np.eye(stack.shape[-1])]
  for factor in stack:
    products.append(products[-1] + factor @ products[-1])
  return products


def largest_norm(stack) -> float:
  return float(np.linalg.norm(stack, 2, axis=(1, 2)).max())
