"""Covariance kernels of an activation: the one integral behind Q and C maps.

For jointly normal (x, y) with variances q1, q2 and correlation c, and an
elementwise function phi,

    K_k(c; q1, q2) = E[ phi^(k)(x) phi^(k)(y) ],    k = 0, 1, 2.

By Price's theorem K_{k+1} is the derivative of K_k with respect to the
covariance ``c sqrt(q1 q2)``, so K_0, K_1 and K_2 hold the C map, its slope and
its curvature. A kernel is a callable ``(order, c, q1, q2) -> float``; which one
serves an activation is decided in `tatnet.layer.record`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from tatnet.layer import derivatives, quadrature

Kernel = Callable[[int, float, float, float], float]

_SERIES_LENGTH = 128
_SERIES_TOLERANCE = 1e-14


@dataclasses.dataclass(frozen=True, eq=False)
class QuadratureKernel:
  """The kernel of any elementwise function, from its derivatives.

  A function without kinks is expanded in orthonormal Hermite polynomials, where
  the kernel is a power series in c. Where that series converges too slowly, and
  for functions with kinks, the integral over the plane is taken instead.

  Attributes:
    jet: maps points to ``phi .. phi'''`` stacked on a new leading axis.
    kinks: points where phi' or phi'' jumps.
    precision: relative rounding of phi, if it is coarser than float64.
    check: called with the radius on which phi cannot be resolved, to raise for what is the
      cause, such as a kink that was not declared.
  """

  jet: Callable[[np.ndarray], np.ndarray]
  kinks: Sequence[float] = ()
  precision: float = 0.0
  check: Callable[[float], None] | None = None

  def __call__(self, order: int, c: float, q1: float, q2: float) -> float:
    if q1 == 0 or q2 == 0:  # a constant beside a normal variable
      return float(self._mean(order, q1) * self._mean(order, q2))
    s1, s2 = math.sqrt(q1), math.sqrt(q2)
    if abs(c) == 1:  # one variable: y = c x s2 / s1
      lines = [k / s for k in self.kinks for s in (s1, c * s2)]
      x, w = quadrature.normal_rule(lines, panels=2 * max(self.panels(q1), self.panels(q2)))
      smooth = float(w @ (self.jet(s1 * x)[order] * self.jet(c * s2 * x)[order]))
    elif c == 0:
      smooth = float(self._mean(order, q1) * self._mean(order, q2))
    elif (series := self._series(order, q1, q2)) is not None:
      smooth = float(np.polynomial.polynomial.polyval(c, series))
    else:
      smooth = self._plane_integral(order, c, q1, q2)
    return smooth + (self._corners(c, s1, s2) if order == 2 else 0.0)

  def _plane_integral(self, order, c, q1, q2):
    panels = max(self.panels(q1), self.panels(q2))
    if panels > _FINEST_PLANE:
      raise ValueError(_TOO_STEEP.format(q=max(q1, q2)))
    return quadrature.bivariate_expectation(
      lambda x: self.jet(x)[order],
      c,
      math.sqrt(q1),
      math.sqrt(q2),
      self.kinks,
      panels=panels,
      order=_ORDER,
    )

  def rule(self, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for expectations of functions of ``sqrt(q) z``."""
    lines = [k / math.sqrt(q) for k in self.kinks]
    return quadrature.normal_rule(lines, panels=2 * self.panels(q))

  def panels(self, q: float) -> int:
    """How many panels resolve phi, phi' and phi'' at this q."""
    return _resolving_panels(self, q)

  def has_series(self, q: float) -> bool:
    """Whether the kernel at this q is a power series in c, which costs microseconds."""
    return self._series(0, q, q) is not None

  def _series(self, order, q1, q2):
    """Coefficients of the kernel as a power series in c; None where it is too slow."""
    if self.kinks:
      return None
    a, b = _hermite_series(self, order, q1), _hermite_series(self, order, q2)
    return None if a is None or b is None else a * b

  def _mean(self, order, q):
    if q == 0:
      return self.jet(np.zeros(1))[order, 0]
    x, w = self.rule(q)
    return w @ self.jet(math.sqrt(q) * x)[order]

  @functools.cached_property
  def slope_jumps(self) -> list[float]:
    """phi'(k+) - phi'(k-) at every kink; zero where only phi'' jumps."""
    return derivatives.slope_jumps(self.jet, self.kinks, self.precision).tolist()

  def _corners(self, c, s1, s2) -> float:
    """What the point masses of phi'' at slope jumps add to K_2."""
    total, rest, coinciding = 0.0, math.sqrt(1 - c**2), 0.0
    corners = [(k, j) for k, j in zip(self.kinks, self.slope_jumps, strict=True) if j]
    for kink, jump in corners:
      for own, other in ((s1, s2), (s2, s1)):
        # Given one argument at the kink, the other is normal about c * kink.
        z = kink / own
        lines = [(k / other - c * z) / rest for k in self.kinks] if rest else ()
        y, w = quadrature.normal_rule(lines)
        smooth = float(w @ self.jet(other * (c * z + rest * y))[2])
        total += jump * smooth * _normal_density(z) / own
      z = kink / s1
      for kink2, jump2 in corners:
        gap = kink2 / s2 - c * z
        mass = jump * jump2 * _normal_density(z) / (s1 * s2)
        if rest:
          total += mass * _normal_density(gap / rest) / rest
        elif gap == 0:
          coinciding += mass
    return math.copysign(math.inf, coinciding) if coinciding else total


_ORDER, _COARSEST, _FINEST, _FINEST_PLANE = 12, 24, 6144, 768


_TOO_STEEP = (
  "The activation is too steep to integrate at q={q:g}; expected a q at which it does not change"
  " abruptly within a small fraction of a standard deviation. Choose a smaller q."
)


@functools.lru_cache(maxsize=256)
def _resolving_panels(kernel: QuadratureKernel, q: float) -> int:
  """The first number of panels that twice as many do not improve on."""

  def second_moments(panels):
    lines = [k / math.sqrt(q) for k in kernel.kinks]
    x, w = quadrature.normal_rule(lines, panels=panels, order=_ORDER)
    return (kernel.jet(math.sqrt(q) * x)[:3] ** 2) @ w

  panels, now = _COARSEST, second_moments(_COARSEST)
  while panels <= _FINEST:
    then = second_moments(2 * panels)
    if np.allclose(now, then, rtol=max(1e-12, 30 * kernel.precision), atol=1e-300):
      return panels
    panels, now = 2 * panels, then
  if kernel.check is not None:
    kernel.check(quadrature.RADIUS * math.sqrt(q))
  raise ValueError(_TOO_STEEP.format(q=q))


@functools.lru_cache(maxsize=256)
def _hermite_series(kernel: QuadratureKernel, order: int, q: float) -> np.ndarray | None:
  """Hermite coefficients of phi^(order)(sqrt(q) z); None if they decay too slowly."""
  x, w = kernel.rule(q)
  values = kernel.jet(math.sqrt(q) * x)[order]
  series = quadrature.hermite_polynomials(x, _SERIES_LENGTH) @ (w * values)
  total = w @ values**2
  tolerance = max(_SERIES_TOLERANCE, kernel.precision)
  return series if abs(total - series @ series) <= tolerance * total else None


def _normal_density(z):
  return math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class RectifierKernel:
  """Closed form for ``phi(x) = gain (max(x, 0) + negative_slope min(x, 0))``.

  TAT paper, Section 4.1: the C map of a leaky rectifier does not depend on q.
  """

  gain: float
  negative_slope: float

  def __call__(self, order: int, c: float, q1: float, q2: float) -> float:
    second_moment = self.gain**2 * (1 + self.negative_slope**2) / 2
    if order == 0:
      scale = math.sqrt(q1 * q2)
      return second_moment * scale * rectifier_cmap(c, self.negative_slope)
    k = rectifier_bend(self.negative_slope)
    if order == 1:
      return second_moment * (1 - k * math.acos(c))
    rest = math.sqrt((1 - c**2) * q1 * q2)
    return second_moment * (k / rest if rest else (math.inf if k else 0.0))


def rectifier_bend(negative_slope: float) -> float:
  """``k(a) = (1 - a)^2 / (pi (1 + a^2))``, the value of a leaky ReLU's C map at 0."""
  return (1 - negative_slope) ** 2 / (math.pi * (1 + negative_slope**2))


def rectifier_cmap(c: float, negative_slope: float) -> float:
  """C map of a leaky ReLU: ``c + k(a) (sqrt(1 - c^2) - c arccos c)``."""
  angle = math.sqrt(1 - c * c) - c * math.acos(c)
  return c + rectifier_bend(negative_slope) * angle


@dataclasses.dataclass(frozen=True)
class ErfKernel:
  """Closed form for ``phi(x) = gain erf(input_scale x)`` (the arcsine kernel)."""

  gain: float
  input_scale: float

  def __call__(self, order: int, c: float, q1: float, q2: float) -> float:
    a = 2 * self.input_scale**2
    covariance, ends = c * math.sqrt(q1 * q2), (1 + a * q1) * (1 + a * q2)
    if order == 0:
      return self.gain**2 * 2 / math.pi * math.asin(a * covariance / math.sqrt(ends))
    slope = self.gain**2 * 2 / math.pi * a / math.sqrt(ends - (a * covariance) ** 2)
    if order == 1:
      return slope
    return slope * a**2 * covariance / (ends - (a * covariance) ** 2)


@dataclasses.dataclass(frozen=True)
class SineKernel:
  """Closed form for ``phi(x) = gain (sin(input_scale x + phase) + shift)``."""

  gain: float
  input_scale: float
  phase: float
  shift: float

  def __call__(self, order: int, c: float, q1: float, q2: float) -> float:
    a = self.input_scale**2
    covariance, spread = a * c * math.sqrt(q1 * q2), a * (q1 + q2) / 2
    # From sin x sin y = (cos(x - y) - cos(x + y)) / 2: exp(-spread) times sinh, without its
    # cancellation at small q, and without overflow at large; each derivative in the
    # covariance swaps sinh and cosh.
    larger = math.exp(abs(covariance) - spread) / 2
    sine = math.sin(self.phase) ** 2 * math.exp(-covariance - spread)
    if order == 1:
      moment = larger * (1 + math.exp(-2 * abs(covariance))) - sine
    else:
      moment = math.copysign(larger, covariance) * -math.expm1(-2 * abs(covariance)) + sine
    moment *= a**order
    if order == 0:
      means = [math.sin(self.phase) * math.exp(-a * q / 2) for q in (q1, q2)]
      moment += self.shift * sum(means) + self.shift**2
    return self.gain**2 * moment
