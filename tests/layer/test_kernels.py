"""Covariance kernels: closed forms, quadrature and Price's theorem."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import arc_cosine_kernel, covariance, derivatives_of, expectation

import tatnet
from tatnet.layer import activations, derivatives, kernels

CORRELATIONS = st.floats(-0.999, 0.999)
VARIANCES = st.floats(0.05, 4.0)


def scaled_erf(gain, scale):
  """phi, phi' and phi'' of gain * erf(scale x), on floats."""
  d = gain * scale * 2 / math.sqrt(math.pi)
  return (
    lambda x: gain * math.erf(scale * x),
    lambda x: d * math.exp(-((scale * x) ** 2)),
    lambda x: -2 * scale**2 * x * d * math.exp(-((scale * x) ** 2)),
  )


def shifted_sine(gain, scale, phase, shift):
  return (
    lambda x: gain * (math.sin(scale * x + phase) + shift),
    lambda x: gain * scale * math.cos(scale * x + phase),
    lambda x: -gain * scale**2 * math.sin(scale * x + phase),
  )


SMOOTH = {
  "erf": (kernels.ErfKernel(1.7, 0.6), scaled_erf(1.7, 0.6)),
  "steep erf": (kernels.ErfKernel(0.5, 3.0), scaled_erf(0.5, 3.0)),
  "sine": (kernels.SineKernel(1.0, 1.0, 0.0, 0.0), shifted_sine(1.0, 1.0, 0.0, 0.0)),
  "shifted sine": (kernels.SineKernel(2.0, 0.7, 0.4, -0.3), shifted_sine(2.0, 0.7, 0.4, -0.3)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("c", [-1.0, -0.7, 0.0, 0.4, 0.999, 1.0])
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (0.3, 2.5)])
def test_smooth_closed_forms_against_adaptive_quadrature(name, order, c, q1, q2):
  kernel, functions = SMOOTH[name]
  expected = covariance(functions[order], c, math.sqrt(q1), math.sqrt(q2))
  assert kernel(order, c, q1, q2) == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("q", [1e-2, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("name", ["erf", "sin", "tanh", "asinh", "gelu_exact"])
def test_small_variances_keep_their_relative_accuracy(name, q):
  slope = {"erf": 2 / math.sqrt(math.pi), "gelu_exact": 0.5}.get(name, 1.0)
  value = tatnet.local_maps(name).kernel(0, 1.0, q, q)
  if name == "sin":
    assert value == pytest.approx(-math.expm1(-2 * q) / 2, rel=1e-12, abs=0)
  else:  # phi(x) = slope x + O(x^2)
    assert value == pytest.approx(slope**2 * q, rel=10 * q + 1e-12, abs=0)


@settings(deadline=None, max_examples=60)
@given(
  c=st.floats(-1, 1), q1=VARIANCES, q2=VARIANCES, slope=st.floats(-1.5, 1.5), gain=st.floats(0.1, 3)
)
def test_rectifier_is_a_mixture_of_arc_cosine_kernels(c, q1, q2, slope, gain):
  # phi(x) = r(x) - slope r(-x) with r the ReLU; Corr(X, -Y) = -c.
  def mixed(order, sign):
    return (1 + slope**2) * arc_cosine_kernel(order, c) + sign * 2 * slope * arc_cosine_kernel(
      order, -c
    )

  kernel = kernels.RectifierKernel(gain, slope)
  scale = math.sqrt(q1 * q2)
  assert kernel(0, c, q1, q2) == pytest.approx(gain**2 * scale * mixed(1, -1), rel=1e-12, abs=1e-13)
  assert kernel(1, c, q1, q2) == pytest.approx(gain**2 * mixed(0, 1), rel=1e-12, abs=1e-13)
  if abs(c) < 1:
    corner = gain**2 * (1 - slope) ** 2 / (2 * math.pi * scale * math.sqrt((1 - c) * (1 + c)))
    assert kernel(2, c, q1, q2) == pytest.approx(corner, rel=1e-9)


def quadrature_twin(kernel):
  match kernel:
    case kernels.RectifierKernel(gain, slope):
      jet = functools.partial(derivatives.leaky_relu, negative_slope=slope)
      return kernels.QuadratureKernel(lambda x: gain * jet(x), (0.0,))
    case kernels.ErfKernel(gain, scale):
      shift, base = 0.0, lambda x: derivatives.erf(scale * x)
    case kernels.SineKernel(gain, scale, phase, shift):
      base = lambda x: derivatives.sin(scale * x + phase)  # noqa: E731

  def jet(x):
    rows = base(x) * (scale ** np.arange(4.0)).reshape(-1, *[1] * np.ndim(x))
    rows[0] += shift
    return gain * rows

  return kernels.QuadratureKernel(jet)


@settings(deadline=None, max_examples=60)
@given(
  kernel=st.one_of(
    st.builds(kernels.RectifierKernel, st.floats(0.3, 2), st.floats(-1, 1)),
    st.builds(kernels.ErfKernel, st.floats(0.3, 2), st.floats(0.1, 1)),
    st.builds(
      kernels.SineKernel, st.floats(0.3, 2), st.floats(0.1, 1), st.floats(-3, 3), st.floats(-1, 1)
    ),
  ),
  order=st.sampled_from([0, 1, 2]),
  c=CORRELATIONS,
  q1=VARIANCES,
  q2=VARIANCES,
)
def test_closed_forms_equal_quadrature(kernel, order, c, q1, q2):
  expected = quadrature_twin(kernel)(order, c, q1, q2)
  assert kernel(order, c, q1, q2) == pytest.approx(expected, rel=1e-9, abs=1e-9)


QUADRATURE = {
  name: kernels.QuadratureKernel(act.jet, act.kinks)
  for name, act in activations.ACTIVATIONS.items()
}


@pytest.mark.parametrize("name", sorted(QUADRATURE))
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("c", "q1", "q2"), [(0.3, 1.0, 1.0), (-0.8, 0.4, 2.2), (0.97, 1.5, 1.3)])
def test_prices_theorem(name, order, c, q1, q2):
  """K_{k+1} is the derivative of K_k in the covariance, point masses of phi'' included."""
  kernel, h = QUADRATURE[name], 1e-3
  k = {i: kernel(order, c + i * h, q1, q2) for i in (-2, -1, 1, 2)}
  slope = (8 * (k[1] - k[-1]) - (k[2] - k[-2])) / (12 * h) / math.sqrt(q1 * q2)
  assert kernel(order + 1, c, q1, q2) == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", sorted(QUADRATURE))
def test_equal_and_opposite_inputs(name):
  activation = activations.ACTIVATIONS[name]
  values = derivatives_of(activation.function, 1)
  for q1, q2, sign in ((1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (0.7, 1.9, 1.0), (0.7, 1.9, -1.0)):
    s1, s2 = math.sqrt(q1), sign * math.sqrt(q2)
    kinks = [k / s for k in activation.kinks for s in (s1, s2)]
    expected = expectation(lambda z, a=s1, b=s2: values(a * z) * values(b * z), kinks)
    for order in (0, 1):
      value = QUADRATURE[name](order, sign, q1, q2)
      assert value == pytest.approx(expected[order], rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softsign", "mish", "elu", "hard_tanh"])
@pytest.mark.parametrize("q", [0.01, 100.0, 1e4])
def test_rules_resolve_large_and_small_variances(name, q):
  activation, s = activations.ACTIVATIONS[name], math.sqrt(q)
  values = derivatives_of(activation.function, 1)
  steep = [x / s for x in (-30, -10, -3, -1, 0, 1, 3, 10, 30)]
  expected = expectation(lambda z: values(s * z) ** 2, steep)
  for order in (0, 1):
    assert QUADRATURE[name](order, 1.0, q, q) == pytest.approx(expected[order], rel=1e-9)


STEEP = {
  "tanh": lambda x: (math.tanh(x), 1 - math.tanh(x) ** 2, -2 * math.tanh(x) / math.cosh(x) ** 2),
  "softsign": lambda x: (
    x / (1 + abs(x)), 1 / (1 + abs(x)) ** 2, -2 * math.copysign(1, x) / (1 + abs(x)) ** 3
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEEP)
@pytest.mark.parametrize("q", [4.0, 16.0, 100.0])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_plane_integrals_resolve_large_variances(name, q, order):
  steep = (-10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0)
  expected = covariance(lambda x: STEEP[name](x)[order], 0.5, math.sqrt(q), math.sqrt(q), steep)
  assert QUADRATURE[name](order, 0.5, q, q) == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize("name", ["sigmoid", "cos", "softplus", "softsign"])
@pytest.mark.parametrize("order", [0, 1])
def test_a_zero_variance_makes_a_constant(name, order):
  values = derivatives_of(activations.ACTIVATIONS[name].function, 1)
  constant, mean = values(0.0)[order], expectation(lambda z: values(1.3 * z)[order], (0.0,))
  for c in (-1.0, 0.2, 1.0):
    assert QUADRATURE[name](order, c, 0.0, 1.69) == pytest.approx(constant * mean, abs=1e-12)
    assert QUADRATURE[name](order, c, 1.69, 0.0) == pytest.approx(constant * mean, abs=1e-12)
    assert QUADRATURE[name](order, c, 0.0, 0.0) == pytest.approx(constant**2, abs=1e-15)
