"""Gradient descent on the risk of a linear residual network."""

from typing import Any, NamedTuple

import numpy as np

from tatnet.diagnostics.linear_residual.checks import check_layers, problem, square_matrix
from tatnet.diagnostics.linear_residual.risk import gradient_and_loss, largest_norm


class Descent(NamedTuple):
  """What `descend` returns.

  Attributes:
    factors: the last :math:`A_i`, ``[layers, d, d]``.
    losses: excess risk before each step and after the last, ``[steps + 1]``.
    largest_norms: the largest spectral norm of a factor, likewise.
  """

  factors: np.ndarray
  losses: np.ndarray
  largest_norms: np.ndarray


def descend(
  target: Any,
  layers: int,
  step_size: float = 0.01,
  steps: int = 300,
  covariance: Any = None,
  start: Any = None,
) -> Descent:
  r"""Gradient descent on the risk from :math:`A = 0`, where every layer is the identity.

  Args:
    target: R, ``[d, d]``.
    layers: number of layers.
    step_size: of gradient descent.
    steps: number of steps.
    covariance: Sigma, ``[d, d]``; None for the identity.
    start: factors to start from, ``[layers, d, d]``; None for zeros.

  Returns:
    A `Descent`. Where the determinant of R is negative, the loss stalls above 0.

  Raises:
    ValueError: shapes that disagree, numbers out of range, or a step size with which the
      loss overflows.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Section 2; the theorems say nothing of descent itself.

  Example:
    >>> result = tatnet.diagnostics.linear_residual.descend(np.diag([2.0, 0.5]), 8, steps=200)
    >>> bool(result.losses[-1] < 1e-9)
    True
  """
  check_layers("descend", layers, 0.0)
  if not step_size > 0 or not steps >= 0:
    raise ValueError(
      f"descend got step_size={step_size!r}, steps={steps!r}; expected a step size above"
      " 0 and at least 0 steps."
    )
  shape = square_matrix(target, "descend").shape
  given = np.zeros([layers, *shape]) if start is None else start
  factors, matrix, sigma = problem(given, target, covariance, "descend")
  losses, norms = np.empty(steps + 1), np.empty(steps + 1)
  for step in range(steps + 1):
    with np.errstate(over="ignore", invalid="ignore"):
      slopes, losses[step] = gradient_and_loss(factors, matrix, sigma)
    if not (np.isfinite(losses[step]) and np.isfinite(slopes).all()):
      raise ValueError(
        f"descend diverged in step {step} with step_size={step_size!r}; expected a smaller one. Try"
        f" {step_size / 10:g}."
      )
    norms[step] = largest_norm(factors)
    if step < steps:
      factors = factors - step_size * slopes
  return Descent(factors, losses, norms)
