"""Local Q and C maps: identities, independent integrals, and the bounds that shaping rests on."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from references import covariance, derivatives_of, expectation, local_conditions

import tatnet
from tatnet import TransformedActivation
from tatnet.layer import activations

NAMES = sorted(activations.ACTIVATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_values_at_unit_q(name):
  activation, maps = activations.ACTIVATIONS[name], tatnet.local_maps(name)
  expected = local_conditions(activation.function, activation.kinks)
  close = {"rel": 1e-11, "abs": 1e-12}
  assert maps.Q(1.0) == pytest.approx(expected["q"], **close)
  assert maps.q_slope(1.0) == pytest.approx(expected["q_slope"], **close)
  assert maps.C(0.0) == pytest.approx(expected["c0"], **close)
  assert maps.c_slope(1.0) == pytest.approx(expected["c_slope"], **close)
  assert maps.c_curvature(1.0) == pytest.approx(expected["c_curvature"], **close)
  values = maps.values
  assert vars(values) == pytest.approx(expected, **close)


@pytest.mark.parametrize("name", NAMES)
def test_ends_and_middle_of_the_c_map(name):
  activation, maps = activations.ACTIVATIONS[name], tatnet.local_maps(name)
  values = derivatives_of(activation.function, 1)
  both_sides = sorted({*activation.kinks, *(-k for k in activation.kinks)})

  def integrands(z):
    (f, f1), (opposite, _) = values(z), values(-z)
    return np.array([f * f, f * opposite, f1])

  q, opposite, mean_slope = expectation(integrands, both_sides)
  assert maps.C(1.0) == pytest.approx(1, abs=1e-15)
  assert maps.C(-1.0) == pytest.approx(opposite / q, abs=1e-12)
  assert maps.c_slope(0.0) == pytest.approx(mean_slope**2 / q, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_derivatives(name):
  maps, h = tatnet.local_maps(name), 1e-3

  def difference(f, x):
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)

  for q in (0.6, 2.0):
    assert maps.q_slope(q) == pytest.approx(difference(maps.Q, q), rel=1e-8, abs=1e-9)
  slope = difference(lambda c: maps.C(c, 0.5, 2.0), 0.4)
  assert maps.c_slope(0.4, 0.5, 2.0) == pytest.approx(slope, rel=1e-8, abs=1e-9)
  curvature = difference(lambda c: maps.c_slope(c, 0.5, 2.0), 0.4)
  assert maps.c_curvature(0.4, 0.5, 2.0) == pytest.approx(curvature, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("a", [0.0, 0.01, 0.425907, 0.9, 1.0, -0.5])
@pytest.mark.parametrize("c", [-1.0, -0.3, 0.0, 0.6, 1.0])
def test_leaky_rectifiers(a, c):
  """TAT paper, Section 4.1."""
  maps = TransformedActivation(
    "leaky_relu", negative_slope=a, output_scale=math.sqrt(2 / (1 + a * a))
  ).maps
  k = (1 - a) ** 2 / (math.pi * (1 + a * a))
  expected = c + k * (math.sqrt(1 - c * c) - c * math.acos(c))
  for q1, q2 in ((1.0, 1.0), (0.2, 5.0)):
    assert maps.C(c, q1, q2) == pytest.approx(expected, abs=1e-14)
    assert maps.c_slope(c, q1, q2) == pytest.approx(1 - k * math.acos(c), abs=1e-14)
  for q in (0.0, 0.3, 7.0):
    assert maps.Q(q) == pytest.approx(q, rel=1e-14)
  assert maps.C(-1.0) == pytest.approx(-2 * a / (1 + a * a), abs=1e-14)
  assert maps.c_curvature(0.6) == pytest.approx(k / 0.8, rel=1e-13)


def scalar(name):
  """A named activation on Python floats."""
  return {
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "hard_tanh": lambda x: max(-1.0, min(1.0, x)),
    "elu": lambda x: x if x > 0 else math.expm1(x),
  }[name]


@pytest.mark.parametrize("name", ["tanh", "softplus", "hard_tanh", "elu"])
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (0.4, 3.0)])
@pytest.mark.parametrize("c", [-0.95, -0.2, 0.5, 0.99])
def test_c_map_of_transformed_activations(name, q1, q2, c):
  act = TransformedActivation(
    name, input_scale=0.8, input_shift=0.3, output_shift=-0.2, output_scale=1.7
  )
  f = scalar(name)
  kinks = [(k - 0.3) / 0.8 for k in activations.ACTIVATIONS[name].kinks]
  s1, s2 = math.sqrt(q1), math.sqrt(q2)

  def moment(c, s1, s2):
    return covariance(lambda x: 1.7 * (f(0.8 * x + 0.3) - 0.2), c, s1, s2, kinks)

  expected = moment(c, s1, s2) / math.sqrt(moment(1.0, s1, s1) * moment(1.0, s2, s2))
  assert act.maps.C(c, q1, q2) == pytest.approx(expected, abs=1e-10)
  assert act.maps.C(c, q2, q1) == pytest.approx(expected, abs=1e-10)


transformed = st.builds(
  TransformedActivation,
  st.sampled_from(NAMES),
  input_scale=st.floats(0.1, 1.5) | st.floats(-1.5, -0.1),
  input_shift=st.floats(-1.5, 1.5),
  output_shift=st.floats(-1, 1),
  output_scale=st.floats(0.1, 3),
)


def varies(act):
  """Not a rectifier that is flat where nearly all of its input lies."""
  f = act.jet(np.linspace(-2, 2, 9))[0]
  return np.ptp(f) > 1e-3 * act.output_scale


@settings(deadline=None, max_examples=20)
@given(transformed)
def test_hermite_coefficients_are_positive(act):
  """C(c) = sum b_i c^i with b_i >= 0: increasing and convex on [0, 1], at most 1 anywhere."""
  assume(varies(act))
  c = np.linspace(0, 1, 6)
  values = act.maps.C(c)
  assert values[-1] == pytest.approx(1, abs=1e-14)
  assert values[0] >= -1e-14
  assert (np.diff(values) >= -1e-12).all()
  assert (np.diff(values, 2) >= -1e-12).all()
  assert (np.abs(act.maps.C(-c)) <= values + 1e-12).all()
  assert (act.maps.c_slope(c) >= -1e-12).all()


@settings(deadline=None, max_examples=15)
@given(transformed)
def test_bounds_from_slope_and_value_at_zero(act):
  """Deviations from the identity that C'(1), C(0) and C''(1) allow."""
  assume(varies(act))
  c = np.linspace(0, 1, 6)
  values, at_zero, slope = act.maps.C(c), act.maps.C(0.0), act.maps.c_slope(1.0)
  rest = 1 - at_zero
  assert (values <= at_zero + rest * c + 1e-12).all()  # convexity
  assert (values >= 1 - slope * (1 - c) - 1e-12).all()  # the tangent at 1
  # With C(c) = sum b_i c^i: slope = sum i b_i >= b_1 + 2 (rest - b_1).
  assert act.maps.c_slope(0.0) >= 2 * rest - slope - 1e-12
  # slope - 1 = sum (i - 1) b_i, and i - 1 <= i (i - 1) / 2 for i >= 2.
  assert at_zero <= 1 - slope + act.maps.c_curvature(1.0) / 2 + 1e-12


@settings(deadline=None, max_examples=12)
@given(transformed)
def test_a_slope_bounds_how_far_a_centred_map_is_from_the_identity(act):
  """DKS: C(0) = 0 and C'(1) = zeta."""
  assume(varies(act))
  mean = expectation(lambda z: act.jet(np.array([z]))[0, 0], act.maps.kinks)
  shift = act.output_shift - mean / act.output_scale
  maps = dataclasses.replace(act, output_shift=shift).maps
  assert maps.C(0.0) == pytest.approx(0, abs=1e-12)
  zeta, c = maps.c_slope(1.0), np.linspace(0, 1, 4)
  values = maps.C(c)
  assert (np.abs(maps.C(-c) + c) <= 2 * (zeta - 1) + 1e-9).all()
  assert (values <= c + 1e-9).all()
  assert (values >= (2 - zeta) * c - 1e-9).all()
  assert (np.abs(maps.c_slope(c) - 1) <= zeta - 1 + 1e-9).all()


def test_weights_and_biases():
  sigma_w, sigma_b, q = 1.3, 0.4, 0.8
  maps = TransformedActivation("tanh", weight_scale=sigma_w, bias_scale=sigma_b, operating_q=q).maps

  def moment(c, q1, q2):
    return sigma_w**2 * covariance(math.tanh, c, math.sqrt(q1), math.sqrt(q2)) + sigma_b**2

  assert maps.Q(q) == pytest.approx(moment(1.0, q, q), rel=1e-12)
  assert maps.C(0.3) == pytest.approx(moment(0.3, q, q) / moment(1.0, q, q), rel=1e-11)
  ends = math.sqrt(moment(1.0, 0.5, 0.5) * moment(1.0, 2.0, 2.0))
  assert maps.C(-0.6, 0.5, 2.0) == pytest.approx(moment(-0.6, 0.5, 2.0) / ends, rel=1e-11)
  slope = expectation(lambda z: (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2)
  assert maps.c_slope() == pytest.approx(sigma_w**2 * q * slope / moment(1.0, q, q), rel=1e-11)
  values = maps.values
  assert values.q == maps.Q(q)
  assert values.q_slope == maps.q_slope(q)
  h = 1e-4
  assert maps.q_slope(q) == pytest.approx((maps.Q(q + h) - maps.Q(q - h)) / (2 * h), rel=1e-7)
