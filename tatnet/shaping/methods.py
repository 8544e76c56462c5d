"""TAT, DKS and EOC: what each asks of a local map, given a network.

A method turns a target for the whole network into conditions on one layer,
through the network's maximising function M (`Topology.maximum`).
"""

import dataclasses
import math
import numbers

import numpy as np

from tatnet.layer.kernels import rectifier_cmap
from tatnet.network.nodes import Map, Maps, Nonlinear, Topology
from tatnet.shaping.roots import bracketed_root


@dataclasses.dataclass(frozen=True)
class LocalConditions:
  """Values that the local maps of a unit-q activation must take; None: left free."""

  c_slope: float
  q_slope: float | None = None
  c0: float | None = None
  c_curvature: float | None = None


def _check_number(method: str, name: str, value: float, low: float, high: float, hint: str):
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not is_number:
    raise TypeError(f"{method} got {name}={value!r}; expected a number.")
  if not low < value < high:
    upper = "" if math.isinf(high) else f" and below {high:g}"
    raise ValueError(
      f"{method} got {name}={value!r}; expected a number above {low:g}{upper}. {hint}"
    )


@dataclasses.dataclass(frozen=True)
class TAT:
  """Tailored Activation Transformation.

  Leaky ReLU: the negative slope for which the largest C_f(0) over all
  subnetworks f is eta. Smooth activations: local maps with Q(1) = Q'(1) =
  C'(1) = 1 and C''(1) such that the largest C_f''(1) is tau.

  Attributes:
    eta: target cosine, between 0 (a linear net) and 1 (an untransformed one).
      0.9 suits vanilla nets of depth 50 and more.
    tau: target curvature, above 0.

  Raises:
    ValueError: eta or tau out of range.

  Reference:
    Zhang, Botev, Martens, Deep Learning without Shortcuts (arXiv 2203.08120),
    Section 4 and Algorithms 1 and 2.

  Example:
    >>> tatnet.TAT(0.9).negative_slope(tatnet.chain(49)).__round__(6)
    0.425907
  """

  eta: float = 0.9
  tau: float = 0.3

  def __post_init__(self):
    hint = "It is the cosine that orthogonal inputs have at the output; 0.9 is usual."
    _check_number("TAT", "eta", self.eta, 0, 1, hint)
    _check_number("TAT", "tau", self.tau, 0, math.inf, "0.3 is usual.")

  def negative_slope(self, topology: Topology) -> float:
    """The leaky ReLU slope a in [0, 1] with M(0, C_a) = eta.

    Raises:
      ValueError: eta is out of the network's reach.
    """

    def reached(a):
      maps = map_of_each_layer(topology, lambda c: rectifier_cmap(min(c, 1.0), a), "C")
      return topology.maximum(0.0, maps)

    most, least = reached(0.0), reached(1.0)
    if not least < self.eta <= most:
      if self.eta > most:
        remedy = f"Choose eta below {most:.4f}, or a deeper network."
      else:
        remedy = f"The layers that keep their own activation set a floor: eta above {least:.4f}."
      raise ValueError(
        f"eta={self.eta} is out of reach for {_depth(topology)}: at slope 0 they reach"
        f" {most:.4f}, at slope 1 {least:.4f}. {remedy}"
      )
    return bracketed_root(lambda a: reached(a) - self.eta, 0.0, 1.0)

  def conditions(self, topology: Topology) -> LocalConditions:
    """Conditions on a smooth activation: C''(1) = kappa with M(0, y + kappa) = tau."""
    for activation in _fixed_activations(topology):
      slope = activation.maps.c_slope(1.0)
      if abs(slope - 1) > 1e-6:
        raise ValueError(
          f"TAT of a smooth activation needs C'(1) = 1 in every layer, and {activation!r},"
          f" which the network keeps, has {slope:.6g}. Transform that layer as well, or use"
          " tatnet.DKS."
        )
    count = topology.maximum(0.0, map_of_each_layer(topology, lambda y: y + 1.0, "c_curvature"))
    floor = topology.maximum(0.0, map_of_each_layer(topology, lambda y: y, "c_curvature"))
    # M is affine in kappa: curvatures add along a chain (TAT paper, Appendix B).
    kappa = (self.tau - floor) / (count - floor) if count > floor else math.nan
    maps = map_of_each_layer(topology, lambda y: y + kappa, "c_curvature")
    if not (kappa > 0 and abs(topology.maximum(0.0, maps) - self.tau) < 1e-9 * self.tau):
      raise ValueError(
        f"tau={self.tau} is out of reach for {_depth(topology)}: without a contribution of the"
        f" activation they have a curvature of {floor:.6g}. Choose tau above it, and check a"
        " hand-written f(x, r): it must apply r in every nonlinear layer and mix with weights"
        " that add to 1."
      )
    return LocalConditions(c_slope=1.0, q_slope=1.0, c_curvature=kappa)


@dataclasses.dataclass(frozen=True)
class DKS:
  """Deep Kernel Shaping.

  Local maps with Q(1) = 1, Q'(1) = 1, C(0) = 0, and C'(1) such that the largest
  C_f'(1) over all subnetworks f is zeta.

  Attributes:
    zeta: target slope of the network's C map at 1, above 1.
    q_slope: target for Q'(1); other values than 1 are for ablations.

  Raises:
    ValueError: zeta or q_slope out of range.

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
    _check_number("DKS", "zeta", self.zeta, 1, math.inf, hint)
    _check_number("DKS", "q_slope", self.q_slope, 0, math.inf, "Leave it at 1.")

  def conditions(self, topology: Topology) -> LocalConditions:
    """The local slope psi with M(1, psi y) = zeta, and the fixed conditions.

    Raises:
      ValueError: zeta is out of the network's reach.
    """

    def excess(psi):
      return (
        topology.maximum(1.0, map_of_each_layer(topology, lambda y: psi * y, "c_slope")) - self.zeta
      )

    floor = excess(1.0)
    high = self.zeta
    while excess(high) < 0 and high < 1e9:
      high *= 2
    if not floor < 0 <= excess(high):
      raise ValueError(
        f"zeta={self.zeta} is out of reach for {_depth(topology)}: with linear layers their slope"
        f" is {floor + self.zeta:.6g}. Choose a larger zeta, and check a hand-written f(x, r): it"
        " must apply r in every nonlinear layer."
      )
    psi = bracketed_root(excess, 1.0, high)
    return LocalConditions(c_slope=psi, q_slope=self.q_slope, c0=0.0)


@dataclasses.dataclass(frozen=True)
class EOC:
  """Edge of chaos: weights and biases of such a size that C'(1) = 1.

  The baseline of the TAT paper. The activation stays as it is. Rectifiers get
  the output scale that keeps q (He initialisation); a smooth activation gets
  `weight_scale` and `bias_scale` for the initialisers, and the fixed point of
  its Q map as `operating_q`.

  Attributes:
    sigma_b: standard deviation of the biases; 0 for rectifiers, above 0 for
      activations that vanish at 0, whose edge lies at q = 0 otherwise.

  Raises:
    ValueError: sigma_b is negative.

  Reference:
    Poole et al. (arXiv 1606.05340); TAT paper, Table 1.

  Example:
    >>> act = tatnet.transform_activation("tanh", tatnet.chain(10), tatnet.EOC(0.2))
    >>> round(act.weight_scale, 4), round(act.operating_q, 4)
    (1.3041, 0.5121)
  """

  sigma_b: float = 0.0

  def __post_init__(self):
    if self.sigma_b != 0:
      _check_number("EOC", "sigma_b", self.sigma_b, 0, math.inf, "0.2 suits tanh.")


Method = TAT | DKS | EOC


def _fixed_activations(topology: Topology):
  """Activations of the layers that keep their own."""
  parts = topology.subnetworks()
  return {part.activation for part in parts if isinstance(part, Nonlinear)} - {None}


def map_of_each_layer(topology: Topology, r: Map, quantity: str) -> Maps:
  """r for the layers to be solved for; for the others what their own map does.

  Args:
    topology: the network.
    r: the map of the layers that have no activation of their own.
    quantity: what is composed: "C", "c_slope" or "c_curvature".
  """
  fixed = _fixed_activations(topology)
  if not fixed:
    return r
  maps = {None: r}
  for activation in fixed:
    q = activation.maps.Q(1.0)
    if abs(q - 1) > 1e-6:
      raise ValueError(
        f"A layer keeps the activation {activation!r}, which maps q = 1 to {q:.6g}; expected 1, so"
        f" that the layers after it see q = 1. Multiply its output_scale by {q**-0.5:.9g}."
      )
    if quantity == "C":
      # Sums leave [-1, 1] by rounding.
      maps[activation] = lambda c, own=activation.maps: own.C(np.clip(c, -1.0, 1.0))
    elif quantity == "c_slope":
      slope = activation.maps.c_slope(1.0)
      maps[activation] = lambda y, slope=slope: slope * y
    else:
      curvature = activation.maps.c_curvature(1.0)
      maps[activation] = lambda y, curvature=curvature: y + curvature
  return maps


def _depth(topology: Topology) -> str:
  count = topology.num_nonlinear
  if count is None:
    return "the hand-written network"
  return f"{count} nonlinear layer{'' if count == 1 else 's'}"
