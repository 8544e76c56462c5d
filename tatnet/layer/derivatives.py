"""Values and derivatives of the named activations, in closed form, on the host.

The solver needs an activation and its first three derivatives at some hundred
points, in float64. NumPy gives them in microseconds; compiling the same thing
with XLA would take longer than the whole solve. Functions that have no entry
here are differentiated by JAX (`of_jax_function`).

A *jet* is the array stacked from ``phi, phi', phi'', phi'''`` along a new
leading axis. Products and compositions of jets follow Leibniz' and Faa di
Bruno's rules, so an activation reads like its formula.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from numpy.polynomial import polynomial

Jet = np.ndarray
JetFunction = Callable[[np.ndarray], Jet]


def _jet(*rows) -> Jet:
  return np.stack(np.broadcast_arrays(*rows))


def _times(a: Jet, b: Jet) -> Jet:
  """Jet of the product (Leibniz)."""
  return _jet(
    a[0] * b[0],
    a[1] * b[0] + a[0] * b[1],
    a[2] * b[0] + 2 * a[1] * b[1] + a[0] * b[2],
    a[3] * b[0] + 3 * a[2] * b[1] + 3 * a[1] * b[2] + a[0] * b[3],
  )


def _of(outer: JetFunction, inner: Jet) -> Jet:
  """Jet of the composition outer(inner) (Faa di Bruno)."""
  f, g, squared = outer(inner[0]), inner, inner[1] * inner[1]
  return _jet(
    f[0],
    f[1] * g[1],
    f[2] * squared + f[1] * g[2],
    f[3] * squared * g[1] + 3 * f[2] * g[1] * g[2] + f[1] * g[3],
  )


def _polynomial(*coefficients: float) -> JetFunction:
  """Jet of a polynomial, lowest coefficient first."""
  orders = [polynomial.polyder(coefficients, order) for order in range(4)]
  return lambda x: _jet(*(polynomial.polyval(x, c) if len(c) > 1 else c[0] for c in orders))


def _pieces(*conditions_and_jets) -> Jet:
  """Piecewise jet: pairs (condition, jet), the first true condition wins."""
  conditions, jets = conditions_and_jets[::2], conditions_and_jets[1::2]
  return np.stack([np.select(conditions, rows) for rows in zip(*jets, strict=True)])


_identity = _polynomial(0.0, 1.0)
square = _polynomial(0.0, 0.0, 1.0)


def tanh(x):
  t = np.tanh(x)
  s = 1 - t**2
  return _jet(t, s, -2 * t * s, s * (6 * t**2 - 2))


def sigmoid(x):
  s = 0.5 * (1 + np.tanh(0.5 * x))
  p = s * (1 - s)
  return _jet(s, p, p * (1 - 2 * s), p * (1 - 6 * p))


def softplus(x):
  s = sigmoid(x)
  return _jet(np.logaddexp(x, 0), s[0], s[1], s[2])


# Importing scipy.special takes longer than solving for an activation does, and NumPy has no erf.
_ERF_SPACING = 2.0**-8
_ERF_POINTS = _ERF_SPACING * np.arange(-1536, 1537)  # to 6, where erf rounds to 1
_ERF_VALUES = np.array([math.erf(a) for a in _ERF_POINTS])
_ERF_SLOPES = 2 / math.sqrt(math.pi) * np.exp(-(_ERF_POINTS**2))


def _erf(x):
  """Fifth-order Taylor polynomial about the nearest of the points: right to rounding."""
  x = np.clip(x, -6.0, 6.0)
  nearest = np.rint((np.fmin(x, 6.0) + 6) / _ERF_SPACING).astype(int)  # of NaN, the last
  a = _ERF_POINTS[nearest]
  d, a2 = x - a, a * a
  # Of degree n + 1: (-1)^n H_n(a) / (n + 1)!, with Hermite's polynomials.
  third, fourth, fifth = (2 * a2 - 1) / 3, a * (3 - 2 * a2) / 6, (4 * a2 * (a2 - 3) + 3) / 30
  series = d * (1 - d * (a - d * (third + d * (fourth + d * fifth))))
  return _ERF_VALUES[nearest] + _ERF_SLOPES[nearest] * series


def erf(x):
  d = 2 / math.sqrt(math.pi) * np.exp(-(x**2))
  return _jet(_erf(x), d, -2 * x * d, (4 * x**2 - 2) * d)


def atan(x):
  d = 1 / (1 + x**2)
  return _jet(np.arctan(x), d, -2 * x * d**2, (6 * x**2 - 2) * d**3)


def asinh(x):
  d = 1 / np.sqrt(1 + x**2)
  return _jet(np.arcsinh(x), d, -x * d**3, (2 * x**2 - 1) * d**5)


def sin(x):
  s, c = np.sin(x), np.cos(x)
  return _jet(s, c, -s, -c)


def cos(x):
  s, c = np.sin(x), np.cos(x)
  return _jet(c, -s, -c, s)


def bentid(x):
  r = np.sqrt(1 + x**2)
  return _jet((r - 1) / 2 + x, x / (2 * r) + 1, 0.5 / r**3, -1.5 * x / r**5)


def softsign(x):
  d = 1 / (1 + np.abs(x))
  sign = np.where(x >= 0, 1.0, -1.0)
  return _jet(x * d, d**2, -2 * sign * d**3, 6 * d**4)


def swish(x):
  return _times(_identity(x), sigmoid(x))


def mish(x):
  return _times(_identity(x), _of(tanh, softplus(x)))


_gelu_argument = _polynomial(0.0, math.sqrt(2 / math.pi), 0.0, 0.044715 * math.sqrt(2 / math.pi))
_gelu_exact_argument = _polynomial(0.0, 1 / math.sqrt(2))


def gelu(x):
  gate = 0.5 * _of(tanh, _gelu_argument(x))
  gate[0] += 0.5
  return _times(_identity(x), gate)


def gelu_exact(x):
  gate = 0.5 * _of(erf, _gelu_exact_argument(x))
  gate[0] += 0.5
  return _times(_identity(x), gate)


def elu(x, *, scale: float = 1.0, alpha: float = 1.0):
  e = alpha * np.exp(np.minimum(x, 0))
  negative = _jet(alpha * np.expm1(np.minimum(x, 0)), e, e, e)
  return scale * _pieces(x > 0, _identity(x), x <= 0, negative)


selu = functools.partial(elu, scale=1.0507009873554805, alpha=1.6732632423543772)


def leaky_relu(x, *, negative_slope: float):
  line = _identity(x)
  return _pieces(x >= 0, line, x < 0, negative_slope * line)


relu = functools.partial(leaky_relu, negative_slope=0.0)


def _clip(low: float, high: float) -> JetFunction:
  def jet(x):
    flat = np.zeros_like(x)
    return _pieces(
        x < low, _jet(flat + low, flat, flat, flat),
        x > high, _jet(flat + high, flat, flat, flat),
        np.ones_like(x, bool), _identity(x),
    )  # fmt: skip

  return jet


hard_tanh = _clip(-1.0, 1.0)
relu6 = _clip(0.0, 6.0)


def one_sided(jet: JetFunction, points: np.ndarray, side: float) -> Jet:
  """Limits of a jet at points from the right (side = 1) or the left (side = -1).

  Evaluated a small step away, where rounding of the argument cannot cross the
  point, and carried back by the jet's own Taylor terms. The third derivative is
  that at the step.
  """
  step = side * 2.0**-20 * (1 + np.abs(points))
  f = jet(points + step)
  return _jet(
    f[0] - step * (f[1] - step / 2 * (f[2] - step / 3 * f[3])),
    f[1] - step * (f[2] - step / 2 * f[3]),
    f[2] - step * f[3],
    f[3],
  )


def slope_jumps(jet: JetFunction, kinks: Sequence[float], precision: float = 0.0) -> np.ndarray:
  """phi'(k+) - phi'(k-) at every kink; zero where only a higher derivative jumps.

  Args:
    jet: of the function.
    kinks: where to look.
    precision: relative rounding of the function, if it is coarser than float64.
  """
  points = np.asarray(kinks, np.float64)
  left, right = one_sided(jet, points, -1.0)[1], one_sided(jet, points, 1.0)[1]
  tolerance = max(1e-9, 1e3 * precision)
  return np.where(np.isclose(left, right, rtol=tolerance, atol=tolerance), 0.0, right - left)


def of_jax_function(function: Callable[[jax.Array], jax.Array]) -> JetFunction:
  """Jet of an elementwise JAX function, by nested differentiation.

  Forward, or backward where a rule of the function's own (`jax.custom_vjp`) knows only that
  direction. Runs in float64 whatever the process's own setting: the switch is local to
  the call and to the calling thread.
  """
  forward, backward = (
    _compiled_orders(function, derivative)
    for derivative in (_forward_derivative, _backward_derivative)
  )
  compiled = forward

  def rows(x):
    nonlocal compiled
    try:
      return compiled(x)
    except (TypeError, NotImplementedError):
      if compiled is backward:
        raise
      compiled = backward
      return compiled(x)

  def jet(x):
    x = np.asarray(x, np.float64)
    # In pieces of two sizes, so that two programs are compiled at most.
    size = _FEW if x.size <= _FEW else _MANY
    flat, found = x.ravel(), np.empty((4, x.size))
    with jax.enable_x64(True):
      for start in range(0, x.size, size):
        part = flat[start : start + size]
        found[:, start : start + size] = np.asarray(rows(np.resize(part, size)))[:, : part.size]
    return found.reshape(4, *x.shape)

  return jet


_FEW, _MANY = 1024, 16384


def _compiled_orders(function, derivative: Callable[[Callable], Callable]) -> Callable:
  """The function and its first three derivatives, stacked."""
  orders = [function]
  for _ in range(3):
    orders.append(derivative(orders[-1]))
  return jax.jit(lambda x: jax.numpy.stack([order(x) for order in orders]))


def _forward_derivative(function):
  return lambda x: jax.jvp(function, (x,), (jax.numpy.ones_like(x),))[1]


def _backward_derivative(function):
  def derivative(x):
    value, pull_back = jax.vjp(function, x)
    return pull_back(jax.numpy.ones_like(value))[0]

  return derivative
