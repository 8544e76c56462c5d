"""ReLU and leaky ReLU under TAT, DKS and EOC, in closed form.

For ``phi(x) = max(x + beta, 0) + a min(x + beta, 0)`` all moments under a
standard normal are polynomials in a with the normal density and distribution
at beta as coefficients, so no quadrature is needed.
"""

import math

import numpy as np

from tatnet.layer.record import TransformedActivation
from tatnet.network.nodes import Topology
from tatnet.shaping.methods import EOC, TAT, LocalConditions
from tatnet.shaping.reach import NoSolutionError, nearest_reachable
from tatnet.shaping.roots import bracketed_root

# The slope of a centred, unshifted ReLU's C map at 1; where its shift changes sign.
_RELU_SLOPE = math.pi / (math.pi - 1)


def tat(name: str, topology: Topology, method: TAT) -> TransformedActivation:
  """The Tailored ReLU (TAT paper, Algorithm 1)."""
  if name == "relu":
    raise ValueError(
      "TAT cannot transform 'relu', which has no parameter to solve for; expected"
      " 'leaky_relu', whose negative slope TAT chooses (the Tailored ReLU)."
    )
  a = method.negative_slope(topology)
  return TransformedActivation(name, negative_slope=a, output_scale=math.sqrt(2 / (1 + a**2)))


def eoc(name: str, method: EOC) -> TransformedActivation:
  """He initialisation, as an output scale: Q(q) = q and C'(1) = 1."""
  if method.sigma_b:
    raise ValueError(
      f"EOC got sigma_b={method.sigma_b} for {name!r}: biases add sigma_b^2 to q in every layer"
      " and a rectifier never takes it away. Expected sigma_b=0."
    )
  a = TransformedActivation(name).jet(np.array([-1.0]))[1, 0]
  return TransformedActivation(name, output_scale=math.sqrt(2 / (1 + a**2)))


def dks(name: str, conditions: LocalConditions) -> TransformedActivation:
  """DKS of a rectifier (DKS paper, Appendix on ReLU)."""
  if name == "relu":
    return _dks_relu(conditions.c_slope)
  return _dks_leaky(conditions)


def _dks_relu(psi: float) -> TransformedActivation:
  """One parameter is missing, so Q'(1) is left as it comes.

  A ReLU is homogeneous: only the ratio of shift to scale matters. The shift is
  +1 or -1, and C'(1) decreases monotonically in the ratio.
  """
  sign = 1.0 if psi < _RELU_SLOPE else -1.0

  def excess(log_scale):
    beta = sign * math.exp(-log_scale)
    m = _Moments(beta)
    return m.slope(0.0) / m.variance(0.0) - psi

  # A kink 8 standard deviations out bends the line by less than 1e-15; one 30 out
  # on the other side leaves a slope of about 30^2 / 2.
  low, high = -math.log(8.0 if sign > 0 else 30.0), 40.0
  if excess(low) * excess(high) > 0:
    raise ValueError(
      f"relu cannot have C'(1) = {psi:.12g} under DKS; expected a local slope between 1 and"
      f" {excess(low) + psi:.4g}. Change zeta or the depth of the network."
    )
  scale = math.exp(bracketed_root(excess, low, high))
  m = _Moments(sign / scale)
  return TransformedActivation(
    "relu",
    input_scale=scale,
    input_shift=sign,
    output_shift=-scale * m.mean(0.0),
    output_scale=1 / (scale * math.sqrt(m.variance(0.0))),
  )


def _dks_leaky(conditions: LocalConditions) -> TransformedActivation:
  """Slope a and shift beta with C'(1) = psi and Q'(1) = q_slope; the smallest shift."""
  roots = _leaky_roots(conditions)
  if not roots:
    raise NoSolutionError(nearest_reachable(lambda c: bool(_leaky_roots(c)), conditions))
  return min(roots, key=lambda root: (abs(root.input_shift), root.input_shift < 0))


def _leaky_roots(conditions: LocalConditions) -> list[TransformedActivation]:
  """All solutions on a grid of shifts.

  For a given beta the condition on C'(1) is a quadratic in a. Each of its two
  roots runs along beta until Q'(1) fits; with q_slope = 1 that is at beta = 0.
  """

  def slope(beta, branch):
    slopes = [a for a in _Moments(beta).slopes_with(conditions.c_slope) if -1 < a < 1]
    return slopes[branch] if branch < len(slopes) else math.nan

  def excess(beta, branch):
    return _Moments(beta).q_slope(slope(beta, branch)) - conditions.q_slope

  if conditions.q_slope == 1.0:
    at_zero = [a for a in (slope(0.0, 0), slope(0.0, 1)) if not math.isnan(a)]
    if at_zero:
      return [_leaky(max(at_zero), 0.0)]
  roots = []
  grid = np.linspace(-8, 8, 321)
  for branch in (0, 1):
    values = np.array([excess(beta, branch) for beta in grid])
    for i in np.flatnonzero((values[1:] < 0) != (values[:-1] < 0)):
      if np.isfinite(values[i : i + 2]).all():
        beta = bracketed_root(lambda x, k=branch: excess(x, k), grid[i], grid[i + 1])
        roots.append(_leaky(slope(beta, branch), beta))
  return [root for root in roots if not math.isnan(root.negative_slope)]


def _leaky(a: float, beta: float) -> TransformedActivation:
  m = _Moments(beta)
  return TransformedActivation(
    "leaky_relu",
    negative_slope=a,
    input_shift=beta,
    output_shift=-m.mean(a),
    output_scale=1 / math.sqrt(m.variance(a)),
  )


class _Moments:
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
