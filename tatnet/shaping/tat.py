"""Tailored Activation Transformation."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from tatnet.layer.activations import Activation
from tatnet.layer.derivatives import slope_jumps
from tatnet.layer.kernels import rectifier_cmap
from tatnet.layer.record import TransformedActivation
from tatnet.network.lines import Centring
from tatnet.network.nodes import Topology
from tatnet.shaping.conditions import LocalConditions
from tatnet.shaping.global_maps import (
  fixed_activations,
  largest_curvature,
  layers_of,
  linear_maps,
  map_of_each_layer,
)
from tatnet.shaping.method import RECTIFIERS, Method, as_number, as_rectifier, is_leaky
from tatnet.shaping.reach import NoSolutionError, Target, out_of_reach
from tatnet.shaping.roots import bracketed_root, root_above
from tatnet.shaping.solver import solve

_ROUNDS = 60


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
    TypeError: something that is no number.

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
    eta = as_number("TAT", "eta", self.eta, 0, 1, hint)
    tau = as_number("TAT", "tau", self.tau, 0, math.inf, "0.3 is usual.")
    object.__setattr__(self, "eta", eta)
    object.__setattr__(self, "tau", tau)

  def shape(self, activation: Activation, network: Topology) -> TransformedActivation:
    """The Tailored ReLU in closed form; a smooth activation by its conditions."""
    rectifier = as_rectifier(activation)
    if rectifier and rectifier.name == "relu":
      raise ValueError(
        "TAT cannot transform 'relu', which has no parameter to solve for; expected"
        " 'leaky_relu', whose negative slope TAT chooses (the Tailored ReLU)."
      )
    if rectifier and is_leaky(rectifier):
      a = self.negative_slope(network)
      gain = math.sqrt(2 / (1 + a**2))
      return TransformedActivation("leaky_relu", negative_slope=a, output_scale=gain)
    if np.any(slope_jumps(activation.jet, activation.kinks)):
      raise ValueError(
        f"TAT cannot transform {activation.name}, whose slope jumps: its C''(1) is infinite. Use"
        " tatnet.DKS, a smooth activation, or 'leaky_relu', for which TAT has a form of its own."
      )
    # A normalisation behind a layer removes its C(0), which only the solution tells.
    c0, follows_c0 = 0.0, any(isinstance(part, Centring) for part in linear_maps(network))
    for _ in range(_ROUNDS):
      solved = self._solved(activation, network, c0)
      if not follows_c0 or abs(solved.local.c0 - c0) < 1e-13:
        return solved
      c0 = solved.local.c0
    raise ValueError(
      f"TAT found no {activation.name} for this network: what its normalisations subtract and what"
      f" its layers add did not settle at tau={self.tau:g}. Choose a smaller tau, or normalise by"
      " the root mean square, which subtracts nothing."
    )

  def _solved(self, activation: Activation, network: Topology, c0: float) -> TransformedActivation:
    conditions = self.conditions(network, c0)
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
          reached=lambda nearest: largest_curvature(network, nearest, c0),
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

  def conditions(self, topology: Topology, c0: float = 0.0) -> LocalConditions:
    """Conditions on a smooth activation: C''(1) = kappa with M(0, y + kappa) = tau.

    Args:
      topology: the network.
      c0: C(0) of the activation; it counts where a normalisation removes it.

    Raises:
      ValueError: tau is out of the network's reach.
    """
    for activation in fixed_activations(topology):
      slope = activation.maps.c_slope(1.0)
      if abs(slope - 1) > 1e-6:
        raise ValueError(
          f"TAT of a smooth activation needs C'(1) = 1 in every layer, and {activation!r},"
          f" which the network keeps, has {slope:.6g}. Transform that layer as well, or use"
          " tatnet.DKS."
        )

    def excess(kappa):
      return largest_curvature(topology, kappa, c0) - self.tau

    kappa = root_above(excess, 0.0, self.tau)
    if kappa is None:
      raise ValueError(
        f"tau={self.tau} is out of reach for {layers_of(topology)}: without a contribution of the"
        f" activation they have a curvature of {excess(0.0) + self.tau:.6g}. Choose tau above it, and check"
        " a hand-written f(x, r): it must apply r in every nonlinear layer and mix with weights"
        " that add to 1."
      )
    return LocalConditions(c_slope=1.0, q_slope=1.0, c_curvature=kappa)
