"""Gaussian expectations by adaptive quadrature, and other references independent of the library."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

# Beyond it the normal density is below 1e-22.
_RADIUS = 10.0


def expectation(f: Callable, kinks: Sequence[float] = ()) -> float | np.ndarray:
  """E[f(Z)], Z ~ N(0, 1), for f of a float, with values that are floats or vectors.

  Adaptive Gauss-Kronrod, split where f or a derivative jumps (`kinks`).
  """
  inside = [float(k) for k in kinks if abs(k) < _RADIUS]
  # Splits of its own keep the adaptive rule from missing a narrow bump.
  points = sorted({*inside, *np.arange(-8.0, 9.0, 2.0)})
  value, error = integrate.quad_vec(
    lambda z: np.asarray(f(z)) * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi)),
    -_RADIUS,
    _RADIUS,
    epsabs=1e-13,
    epsrel=1e-13,
    norm="max",
    points=points,
  )
  assert error <= 1e-10 * (1 + np.max(np.abs(value))), f"quadrature error {error}"
  return value if np.ndim(value) else float(value)


def covariance(
  f: Callable[[float], float],
  c: float,
  scale1: float = 1.0,
  scale2: float = 1.0,
  kinks: Sequence[float] = (),
) -> float:
  """E[f(scale1 X) f(scale2 Y)] for X, Y of correlation c, by nested adaptive quadrature."""
  rest = math.sqrt((1 - c) * (1 + c))

  def given(x):
    lines = [(k / scale2 - c * x) / rest for k in kinks] if rest else ()
    return _quad(lambda y: f(scale2 * (c * x + rest * y)), lines) if rest else f(scale2 * c * x)

  # Where Y's mean passes a kink the conditional expectation bends, the sharper
  # the closer c is to 1 in absolute value.
  lines = [k / scale1 for k in kinks]
  if c:
    lines += [k / (scale2 * c) + t * rest / c for k in kinks for t in (-9, -6, -3, 0, 3, 6, 9)]
  return _quad(lambda x: f(scale1 * x) * given(x), lines)


def _quad(f, kinks):
  """Scalar twin of `expectation`, several times faster: QUADPACK instead of NumPy."""
  edges = sorted({-_RADIUS, 0.0, _RADIUS, *(k for k in kinks if abs(k) < _RADIUS)})
  total = 0.0
  for low, high in itertools.pairwise(edges):
    value, *_ = integrate.quad(
      lambda z: f(z) * math.exp(-z * z / 2), low, high,
      epsabs=1e-12, epsrel=1e-12, limit=200, full_output=True,
    )  # fmt: skip
    total += value
  return total / math.sqrt(2 * math.pi)


def derivatives_of(function: Callable, count: int) -> Callable[[np.ndarray], np.ndarray]:
  """Points, or one point -> value and `count` derivatives on a new leading axis, in float64.

  Nested `jax.grad`, compiled, under a local x64 context.
  """
  orders = [function]
  for _ in range(count):
    orders.append(jax.grad(orders[-1]))
  compiled = jax.jit(lambda x: jnp.stack([jnp.vectorize(order)(x) for order in orders]))

  def evaluate(x):
    with jax.enable_x64(True):
      return np.asarray(compiled(np.asarray(x, np.float64)))

  return evaluate


def local_conditions(act: Callable, kinks: Sequence[float] = ()) -> dict[str, float]:
  """Local map values at q = 1 of a callable on JAX scalars, from their definitions.

  Args:
    act: the activation as the network applies it.
    kinks: where its slope or curvature jumps, in its own argument.
  """
  derivatives = derivatives_of(act, 2)

  def integrands(z):
    f, f1, f2 = derivatives(z)
    return np.array([f, f * f, f * f1 * z, f1 * f1, f2 * f2])

  mean, q, q_slope, slope, curvature = expectation(integrands, kinks)
  if _has_slope_jump(derivatives, kinks):
    curvature = math.inf
  return {
    "q": float(q),
    "q_slope": float(q_slope),
    "c0": float(mean**2 / q),
    "c_slope": float(slope / q),
    "c_curvature": float(curvature / q),
  }


def _has_slope_jump(derivatives, kinks):
  for kink in kinks:
    # A kink that was computed is only known up to rounding.
    step = 1e-7 * (1 + abs(kink))
    (_, left, _), (_, right, _) = derivatives(kink - step), derivatives(kink + step)
    if abs(right - left) > 1e-5 * max(abs(left), abs(right)):
      return True
  return False


def arc_cosine_kernel(order: int, c: float) -> float:
  """E[f(X) f(Y)] for f the step (order 0) or the ReLU (order 1), unit variances.

  Cho & Saul, Kernel Methods for Deep Learning (2009), with their factor 2 left out.
  """
  angle = math.acos(c)
  if order == 0:
    return (math.pi - angle) / (2 * math.pi)
  return (math.sin(angle) + (math.pi - angle) * c) / (2 * math.pi)
