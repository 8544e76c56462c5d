"""Local Q and C maps: what one nonlinear layer does to lengths and angles.

In the limit of infinite width a layer ``phi(W x + b)`` turns the q value
``|x|^2 / dim(x)`` of its preactivation, and the cosine c between two of them,
into new ones by fixed scalar functions (DKS paper, Section 4; TAT paper,
Section 2). Weights have variance ``weight_variance`` per input and biases
``bias_variance``; with the library's initialisers those are 1 and 0.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np

from tatnet.layer import kernels


@dataclasses.dataclass(frozen=True)
class LocalValues:
  """The local maps where the network operates: at ``q``'s input, c = 0 and c = 1.

  Attributes:
    q: Q at the operating point; 1 for TAT and DKS, the fixed point for EOC.
    q_slope: Q' there.
    c0: C(0).
    c_slope: C'(1).
    c_curvature: C''(1); infinite where the slope of the activation jumps.

  Example:
    >>> values = tatnet.local_maps("relu").values
    >>> values.q, values.c_slope, values.c_curvature
    (0.5, 1.0, inf)
  """

  q: float
  q_slope: float
  c0: float
  c_slope: float
  c_curvature: float


def _elementwise(method):
  """Lets a method of floats take arrays, broadcast; floats come back as floats."""
  signature = inspect.signature(method)

  @functools.wraps(method)
  def wrapped(self, *args, **kwargs):
    bound = signature.bind(self, *args, **kwargs).arguments
    given = {name: v for name, v in bound.items() if name != "self" and v is not None}
    if all(np.ndim(value) == 0 for value in given.values()):
      return method(self, **{name: float(value) for name, value in given.items()})
    arrays = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in given.values()))
    flat = [
      method(self, **dict(zip(given, map(float, row), strict=True)))
      for row in zip(*(a.ravel() for a in arrays), strict=True)
    ]
    return np.array(flat, np.float64).reshape(arrays[0].shape)

  return wrapped


def _check_q(*values: float) -> None:
  for q in values:
    if not (q >= 0 and math.isfinite(q)):
      raise ValueError(
        f"q={q} is not a q value: expected a finite number >= 0, the mean square of a"
        " vector's entries."
      )


def _check_c(c: float) -> None:
  if not -1 <= c <= 1:
    raise ValueError(
      f"c={c} is not a cosine similarity: expected a number in [-1, 1]. Clip values"
      " that left the interval by rounding."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class LocalMaps:
  """Q and C maps of one nonlinear layer. Every method takes floats or arrays.

  Attributes:
    jet: maps points to the activation and its first three derivatives, stacked.
    kinks: points where phi' or phi'' jumps.
    kernel: the covariance kernel of the activation (`tatnet.layer.kernels`).
    weight_variance: variance of a preactivation per unit of q.
    bias_variance: variance of the biases.
    operating_q: the q value at which the network holds its preactivations.

  Example:
    >>> maps = tatnet.local_maps("relu")
    >>> round(maps.C(0.0), 6)
    0.31831
    >>> maps.Q(2.0)
    1.0
  """

  jet: Callable[[np.ndarray], np.ndarray]
  kinks: Sequence[float]
  kernel: kernels.Kernel
  weight_variance: float = 1.0
  bias_variance: float = 0.0
  operating_q: float = 1.0

  @_elementwise
  def Q(self, q: float) -> float:  # noqa: N802 - the papers' symbol
    """Q(q): the q value after the layer. DKS paper, Section 4."""
    _check_q(q)
    return self.weight_variance * self.kernel(0, 1.0, q, q) + self.bias_variance

  @_elementwise
  def q_slope(self, q: float = 1.0) -> float:
    """Q'(q) = E[phi(sqrt(q) z) phi'(sqrt(q) z) z] / sqrt(q), for q > 0."""
    _check_q(q)
    if q == 0:
      raise ValueError("q=0 was given: the slope of Q needs q > 0.")
    z, w = self.rule(q)
    f = self.jet(math.sqrt(q) * z)
    return float(self.weight_variance * (w @ (f[0] * f[1] * z)) / math.sqrt(q))

  @_elementwise
  def C(self, c: float, q1: float | None = None, q2: float | None = None) -> float:  # noqa: N802
    """C(c; q1, q2): the cosine after the layer.

    Args:
      c: cosine similarity before it, in [-1, 1].
      q1: q value of the first vector; by default `operating_q`.
      q2: q value of the second; by default `operating_q`.

    Raises:
      ValueError: c outside [-1, 1], a negative q, or a map that is not defined
        because the activation vanishes at that q.
    """
    return self._cosine(0, c, q1, q2)

  @_elementwise
  def c_slope(self, c: float = 1.0, q1: float | None = None, q2: float | None = None) -> float:
    """C'(c; q1, q2), the derivative in c; at 1 by default."""
    return self._cosine(1, c, q1, q2)

  @_elementwise
  def c_curvature(self, c: float = 1.0, q1: float | None = None, q2: float | None = None) -> float:
    """C''(c; q1, q2); infinite at c = 1 where the slope of the activation jumps."""
    return self._cosine(2, c, q1, q2)

  def rule(self, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights for expectations of functions of phi(sqrt(q) z) and its derivatives."""
    return self._by_quadrature.rule(q)

  def panels(self, q: float) -> int:
    """Number of quadrature panels that resolve phi(sqrt(q) z) and its derivatives."""
    return 2 * self._by_quadrature.panels(q)

  def _length(self, q: float) -> float:
    """Q(q), remembered: every value of C at that q divides by it."""
    if q not in self._lengths:
      self._lengths[q] = self.Q(q)
    return self._lengths[q]

  @functools.cached_property
  def _lengths(self) -> dict[float, float]:
    return {}

  @functools.cached_property
  def _by_quadrature(self) -> kernels.QuadratureKernel:
    if isinstance(self.kernel, kernels.QuadratureKernel):
      return self.kernel
    return kernels.QuadratureKernel(self.jet, self.kinks)

  def needs_plane_integrals(self, q: float) -> bool:
    """Whether a value of C at q costs an integral over the plane (some milliseconds)."""
    return isinstance(self.kernel, kernels.QuadratureKernel) and not self.kernel.has_series(q)

  def _cosine(self, order, c, q1, q2):
    q1 = self.operating_q if q1 is None else q1
    q2 = self.operating_q if q2 is None else q2
    _check_c(c)
    _check_q(q1, q2)
    ends = math.sqrt(self._length(q1) * self._length(q2))
    if ends == 0:
      raise ValueError(f"C is not defined at q1={q1}, q2={q2}: the layer maps one of them to 0.")
    if order and q1 * q2 == 0:  # beside a zero vector the cosine does not matter
      return 0.0
    moment = self.weight_variance * (q1 * q2) ** (order / 2) * self.kernel(order, c, q1, q2)
    return (moment + (self.bias_variance if order == 0 else 0.0)) / ends

  @functools.cached_property
  def values(self) -> LocalValues:
    """The maps at the operating point."""
    q = self.operating_q
    return LocalValues(
      q=self.Q(q),
      q_slope=self.q_slope(q),
      c0=self.C(0.0),
      c_slope=self.c_slope(1.0),
      c_curvature=self.c_curvature(1.0),
    )
