"""Tailored Activation Transformation."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from tatnet.layer.activations import Activation
from tatnet.layer.derivatives import slope_jumps
from tatnet.layer.kernels import rectifier_cmap
from tatnet.layer.record import TransformedActivation
from tatnet.network.nodes import Topology
from tatnet.shaping.conditions import LocalConditions
from tatnet.shaping.global_maps import fixed_activations, layers_of, map_of_each_layer
from tatnet.shaping.method import RECTIFIERS, Method, check_number, rectifier_name
from tatnet.shaping.reach import NoSolutionError, Target, out_of_reach
from tatnet.shaping.roots import bracketed_root
from tatnet.shaping.solver import solve


@dataclasses.dataclass(frozen=True)
class TAT(Method):
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
    check_number("TAT", "eta", self.eta, 0, 1, hint)
    check_number("TAT", "tau", self.tau, 0, math.inf, "0.3 is usual.")

  def shape(self, activation: Activation, network: Topology) -> TransformedActivation:
    """The Tailored ReLU in closed form; a smooth activation by its conditions."""
    name = rectifier_name(activation)
    if name == "relu":
      raise ValueError(
        "TAT cannot transform 'relu', which has no parameter to solve for; expected"
        " 'leaky_relu', whose negative slope TAT chooses (the Tailored ReLU)."
      )
    if name:
      a = self.negative_slope(network)
      return TransformedActivation(name, negative_slope=a, output_scale=math.sqrt(2 / (1 + a**2)))
    if np.any(slope_jumps(activation.jet, activation.kinks)):
      raise ValueError(
        f"TAT cannot transform {activation.name}, whose slope jumps: its C''(1) is infinite. Use"
        " tatnet.DKS, a smooth activation, or 'leaky_relu', for which TAT has a form of its own."
      )
    conditions = self.conditions(network)
    try:
      return solve(activation, conditions)
    except NoSolutionError as error:
      raise ValueError(
        out_of_reach(
          self,
          activation,
          target=Target("tau", self.tau, "C''(1)", conditions.c_curvature),
          given="Q'(1) = C'(1) = 1",
          nearest=error.nearest,
          reached=lambda nearest: network.maximum(
            0.0, map_of_each_layer(network, lambda y: y + nearest, "c_curvature")
          ),
        )
      ) from None

  def check_mixture(self, names: Iterable[str]) -> None:
    """A leaky ReLU stands alone: its condition is not a local one."""
    if set(names) & set(RECTIFIERS):
      raise ValueError(
        f"TAT got {', '.join(names)}: its condition on leaky_relu is one on the whole network's"
        " C(0), those on smooth activations are local. Expected leaky_relu alone, or smooth"
        " activations only; tatnet.DKS can mix them."
      )

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
        f"eta={self.eta} is out of reach for {layers_of(topology)}: at slope 0 they reach"
        f" {most:.4f}, at slope 1 {least:.4f}. {remedy}"
      )
    return bracketed_root(lambda a: reached(a) - self.eta, 0.0, 1.0)

  def conditions(self, topology: Topology) -> LocalConditions:
    """Conditions on a smooth activation: C''(1) = kappa with M(0, y + kappa) = tau."""
    for activation in fixed_activations(topology):
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
        f"tau={self.tau} is out of reach for {layers_of(topology)}: without a contribution of the"
        f" activation they have a curvature of {floor:.6g}. Choose tau above it, and check a"
        " hand-written f(x, r): it must apply r in every nonlinear layer and mix with weights"
        " that add to 1."
      )
    return LocalConditions(c_slope=1.0, q_slope=1.0, c_curvature=kappa)
