"""Deep Kernel Shaping."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from tatnet.layer.activations import Activation
from tatnet.layer.record import TransformedActivation
from tatnet.network.nodes import Topology
from tatnet.shaping.conditions import LocalConditions
from tatnet.shaping.global_maps import layers_of, map_of_each_layer
from tatnet.shaping.method import Method, as_number, as_rectifier, is_leaky
from tatnet.shaping.reach import NoSolutionError, Target, nearest_reachable, out_of_reach
from tatnet.shaping.rectifier_moments import RectifierMoments
from tatnet.shaping.roots import bracketed_root, root_above
from tatnet.shaping.solver import solve

# The slope of a centred, unshifted ReLU's C map at 1; where its shift changes sign.
_RELU_SLOPE = math.pi / (math.pi - 1)


@dataclasses.dataclass(frozen=True)
class DKS(Method):
  """Deep Kernel Shaping.

  Local maps with Q(1) = 1, Q'(1) = 1, C(0) = 0, and C'(1) such that the largest
  C_f'(1) over all subnetworks f is zeta.

  Attributes:
    zeta: target slope of the network's C map at 1, above 1.
    q_slope: target for Q'(1); other values than 1 are for ablations.

  Raises:
    ValueError: zeta or q_slope out of range.
    TypeError: something that is no number.

  Reference:
    Martens et al., Deep Kernel Shaping (arXiv 2110.01765), "Summary of our method".

  Example:
    >>> round(tatnet.DKS(1.5).conditions(tatnet.chain(49)).c_slope, 8)
    1.00830913
  """

  zeta: float = 1.5
  q_slope: float = 1.0

  def __post_init__(self):
    hint = "It is the slope of the network's C map at 1; 1.5 is usual."
    zeta = as_number("DKS", "zeta", self.zeta, 1, math.inf, hint)
    q_slope = as_number("DKS", "q_slope", self.q_slope, 0, math.inf, "Leave it at 1.")
    object.__setattr__(self, "zeta", zeta)
    object.__setattr__(self, "q_slope", q_slope)

  def shape(self, activation: Activation, network: Topology) -> TransformedActivation:
    """Rectifiers in closed form, anything else by its conditions."""
    conditions = self.conditions(network)
    rectifier = as_rectifier(activation)
    if rectifier and rectifier.name == "relu":
      return _relu(conditions.c_slope)
    is_closed_form = rectifier and is_leaky(rectifier)
    try:
      return _leaky_relu(conditions) if is_closed_form else solve(activation, conditions)
    except NoSolutionError as error:
      raise ValueError(
        out_of_reach(
          self,
          activation,
          target=Target("zeta", self.zeta, "C'(1)", conditions.c_slope),
          given=f"C(0) = 0 and Q'(1) = {self.q_slope:g}",
          nearest=error.nearest,
          reached=lambda nearest: network.maximum(
            1.0, map_of_each_layer(network, lambda y: nearest * y, "c_slope")
          ),
        )
      ) from None

  def check_mixture(self, names: Iterable[str]) -> None:
    """Every layer meets the same local conditions, so any layer may use any activation."""

  def conditions(self, topology: Topology) -> LocalConditions:
    """The local slope psi with M(1, psi y) = zeta, and the fixed conditions.

    Raises:
      ValueError: zeta is out of the network's reach.
    """

    def excess(psi):
      return (
        topology.maximum(1.0, map_of_each_layer(topology, lambda y: psi * y, "c_slope")) - self.zeta
      )

    psi = root_above(excess, 1.0, self.zeta)
    if psi is None:
      raise ValueError(
        f"zeta={self.zeta} is out of reach for {layers_of(topology)}: with linear layers their slope"
        f" is {excess(1.0) + self.zeta:.6g}. Choose a larger zeta, and check a hand-written f(x, r): it"
        " must apply r in every nonlinear layer."
      )
    return LocalConditions(c_slope=psi, q_slope=self.q_slope, c0=0.0)


def _relu(psi: float) -> TransformedActivation:
  """One parameter is missing, so Q'(1) is left as it comes.

  A ReLU is homogeneous: only the ratio of shift to scale matters. The shift is
  +1 or -1, and C'(1) decreases monotonically in the ratio.
  """
  sign = 1.0 if psi < _RELU_SLOPE else -1.0

  def excess(log_scale):
    beta = sign * math.exp(-log_scale)
    m = RectifierMoments(beta)
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
  m = RectifierMoments(sign / scale)
  return TransformedActivation(
    "relu",
    input_scale=scale,
    input_shift=sign,
    output_shift=-scale * m.mean(0.0),
    output_scale=1 / (scale * math.sqrt(m.variance(0.0))),
  )


def _leaky_relu(conditions: LocalConditions) -> TransformedActivation:
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
    slopes = [a for a in RectifierMoments(beta).slopes_with(conditions.c_slope) if -1 < a < 1]
    return slopes[branch] if branch < len(slopes) else math.nan

  def excess(beta, branch):
    return RectifierMoments(beta).q_slope(slope(beta, branch)) - conditions.q_slope

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
  m = RectifierMoments(beta)
  return TransformedActivation(
    "leaky_relu",
    negative_slope=a,
    input_shift=beta,
    output_shift=-m.mean(a),
    output_scale=1 / math.sqrt(m.variance(a)),
  )
