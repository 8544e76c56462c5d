"""Moments of a shifted leaky ReLU in closed form.

For ``phi(x) = max(x + beta, 0) + a min(x + beta, 0)`` all moments under a
standard normal are polynomials in a with the normal density and distribution
at beta as coefficients, so no quadrature is needed.
"""

import math


class RectifierMoments:
  """Gaussian moments of max(x + beta, 0) + a min(x + beta, 0)."""

  def __init__(self, beta: float):
    self.density = math.exp(-(beta**2) / 2) / math.sqrt(2 * math.pi)
    self.above = math.erfc(-beta / math.sqrt(2)) / 2
    self.below = math.erfc(beta / math.sqrt(2)) / 2
    # Means and second moments of the positive and the negative part.
    self.mean1 = beta * self.above + self.density
    self.mean2 = beta * self.below - self.density
    self.square1 = (1 + beta**2) * self.above + beta * self.density
    self.square2 = (1 + beta**2) * self.below - beta * self.density

  def mean(self, a):
    return self.mean1 + a * self.mean2

  def variance(self, a):
    return self.square1 + a**2 * self.square2 - self.mean(a) ** 2

  def slope(self, a):
    """E[phi'^2]."""
    return self.above + a**2 * self.below

  def q_slope(self, a):
    """Q'(1) after centring: E[d/dx((phi - mean) phi')] with the jump of phi' at the kink."""
    return (self.slope(a) - self.mean(a) * (1 - a) * self.density) / self.variance(a)

  def slopes_with(self, psi):
    """The a, in order, with E[phi'^2] = psi variance: a quadratic in a."""
    quadratic = psi * (self.square2 - self.mean2**2) - self.below
    linear = -2 * psi * self.mean1 * self.mean2
    constant = psi * (self.square1 - self.mean1**2) - self.above
    discriminant = linear**2 - 4 * quadratic * constant
    if discriminant < 0 or quadratic == 0:
      return []
    root = math.copysign(math.sqrt(discriminant), linear)
    first = -(linear + root) / 2
    return sorted({first / quadratic, constant / first if first else 0.0})
