"""Linear residual networks: factors near the identity, and gradient descent to them.

The network is :math:`\\hat y = (I + A_\\ell) \\cdots (I + A_1) x`, the data :math:`y = R x` plus
noise, with :math:`\\Sigma = E[x x^T]`. Everything is in NumPy and float64.
"""

from tatnet.diagnostics.linear_residual.descent import Descent, descend
from tatnet.diagnostics.linear_residual.factors import (
  log_condition,
  small_norm_bound,
  small_norm_factors,
)
from tatnet.diagnostics.linear_residual.risk import (
  end_to_end,
  gradient,
  gradient_lower_bound,
  loss,
)

__all__ = [
  "Descent",
  "descend",
  "end_to_end",
  "gradient",
  "gradient_lower_bound",
  "log_condition",
  "loss",
  "small_norm_bound",
  "small_norm_factors",
]
