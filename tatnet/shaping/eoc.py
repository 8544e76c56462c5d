"""Edge of chaos: sizes of weights and biases with which slopes of C maps are 1.

With weights of variance sigma_w^2 per input and biases of variance sigma_b^2 a
layer maps q to ``Q(q) = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2`` and a pair of
equal inputs apart by the slope ``sigma_w^2 E[phi'(sqrt(q) z)^2]``. At the edge of
chaos the slope is 1 at the fixed point of Q. Eliminating sigma_w leaves one
equation in q, ``E[phi^2] / E[phi'^2] + sigma_b^2 = q``.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np

from tatnet.layer import quadrature
from tatnet.layer.activations import Activation
from tatnet.layer.fields import is_number
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.layer.validation import check_activation
from tatnet.network.nodes import Topology
from tatnet.shaping.method import RECTIFIERS, Method, as_number, as_rectifier
from tatnet.shaping.roots import bracketed_root

_GRID = np.geomspace(1e-6, 1e4, 121)


@dataclasses.dataclass(frozen=True)
class EOC(Method):
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
    TypeError: something that is no number.

  Reference:
    Poole et al. (arXiv 1606.05340); TAT paper, Table 1.

  Example:
    >>> act = tatnet.transform_activation("tanh", tatnet.chain(10), tatnet.EOC(0.2))
    >>> round(act.weight_scale, 4), round(act.operating_q, 4)
    (1.3041, 0.5121)
  """

  sigma_b: float = 0.0

  def __post_init__(self):
    is_zero = is_number(self.sigma_b) and self.sigma_b == 0
    hint = "0.2 suits tanh."
    sigma_b = 0.0 if is_zero else as_number("EOC", "sigma_b", self.sigma_b, 0, math.inf, hint)
    object.__setattr__(self, "sigma_b", sigma_b)

  def shape(self, activation: Activation, network: Topology) -> TransformedActivation:
    """Rectifiers by their output scale, whatever the network; others by their fixed point."""
    del network
    rectifier = as_rectifier(activation)
    return _rectifier(rectifier, self) if rectifier else _at_its_fixed_point(activation, self)

  def check_mixture(self, names: Iterable[str]) -> None:
    """Smooth activations have different fixed points of q."""
    if set(names) - set(RECTIFIERS):
      raise ValueError(
        f"EOC got {', '.join(names)}: each has a weight scale and a fixed point of its own, so one"
        " network cannot hold both. Expected one smooth activation, or relu and leaky_relu."
      )


def _rectifier(rectifier: TransformedActivation, method: EOC) -> TransformedActivation:
  """He initialisation, as an output scale: Q(q) = q and C'(1) = 1."""
  if method.sigma_b:
    raise ValueError(
      f"EOC got sigma_b={method.sigma_b} for {rectifier.name!r}: biases add sigma_b^2 to q in every layer"
      " and a rectifier never takes it away. Expected sigma_b=0."
    )
  gain = rectifier.output_scale or 1.0
  return dataclasses.replace(rectifier, output_scale=gain / math.sqrt(rectifier.maps.Q(1.0)))


def _at_its_fixed_point(activation: Activation, method: EOC) -> TransformedActivation:
  """The activation with its weight scale, bias scale and fixed point.

  Where there are several fixed points it takes the one with the most stable Q
  map, that is with the smallest slope |Q'(q)|. Activations that grow like a
  rectifier (gelu, swish, mish) have slopes a little above 1 there: q drifts away
  from the fixed point, slowly.

  Raises:
    ValueError: there is no edge of chaos at this sigma_b, or only at q = 0.
  """

  # Relative to q, so that rounding at the ends of the grid does not count.
  values = _ratio(activation) + method.sigma_b**2 - _GRID
  clear = np.flatnonzero(np.isfinite(values) & (np.abs(values) > 1e-9 * _GRID))
  fixed_points = []
  for i, j in itertools.pairwise(clear):
    if j - i > 2 or (values[i] > 0) == (values[j] > 0):
      continue
    check_activation(activation, quadrature.RADIUS * math.sqrt(_GRID[j]))
    excess = _excess(activation, method, panels=as_transformed(activation).maps.panels(_GRID[j]))
    # A little wider than the cell, whose coarse values may have missed by a little.
    low, high = _GRID[i] / 1.01, _GRID[j] * 1.01
    if (excess(low) > 0) != (excess(high) > 0):
      fixed_points.append(bracketed_root(excess, low, high))
  if not fixed_points:
    raise ValueError(_no_edge(activation, method))
  candidates = [_record(activation, method, q) for q in fixed_points]
  if len(candidates) == 1:
    return candidates[0]
  return min(candidates, key=lambda c: abs(c.maps.q_slope(c.operating_q)))


@functools.lru_cache(maxsize=64)
def _ratio(activation: Activation) -> np.ndarray:
  """E[phi^2] / E[phi'^2] over the grid of q, to find where the signs change."""
  return np.array([_ratio_at(activation, q, panels=_panels(q)) for q in _GRID])


def _panels(q: float) -> int:
  """Enough for signs: phi changes over distances of 1 / sqrt(q)."""
  return 24 * max(1, math.ceil(math.sqrt(q) / 3))


def _ratio_at(activation: Activation, q: float, panels: int) -> float:
  lines = [k / math.sqrt(q) for k in activation.kinks]
  z, w = quadrature.normal_rule(lines, panels=panels)
  with np.errstate(all="ignore"):
    f, f1, _, _ = activation.jet(math.sqrt(q) * z)
    return float((w @ f**2) / (w @ f1**2))


def _excess(activation: Activation, method: EOC, panels: int) -> Callable[[float], float]:
  """By how much the ratio and the biases exceed q."""

  return lambda q: _ratio_at(activation, q, panels) + method.sigma_b**2 - q


def _record(activation: Activation, method: EOC, q: float) -> TransformedActivation:
  base = as_transformed(activation)
  return dataclasses.replace(
    base,
    weight_scale=1 / math.sqrt(base.maps.kernel(1, 1.0, q, q)),
    bias_scale=method.sigma_b,
    operating_q=q,
  )


def _no_edge(activation: Activation, method: EOC) -> str:
  if method.sigma_b == 0:
    return (
      f"EOC got sigma_b=0 for {activation.name}: without biases its edge of chaos lies at q = 0,"
      " where the signal vanishes, or nowhere. Expected sigma_b above 0, such as EOC(0.2); TAT and"
      " DKS need no edge of chaos."
    )
  return (
    f"{activation.name} has no edge of chaos at sigma_b={method.sigma_b}: no fixed point of its Q"
    f" map between {_GRID[0]:g} and {_GRID[-1]:g} has a C map of slope 1. Choose another sigma_b,"
    " or use TAT or DKS, which shape the activation instead."
  )
