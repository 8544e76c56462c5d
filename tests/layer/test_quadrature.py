"""Quadrature under one and two normal variables against moments, closed forms and SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import arc_cosine_kernel, covariance, expectation

from tatnet.layer import quadrature

KINKS = [(), (0.0,), (0.3, -1.7, 0.3), (20.0, -1e300, np.inf), (-12.0, 12.0)]


def double_factorial_moment(n):
  """E[Z^n]."""
  return float(math.prod(range(n - 1, 0, -2))) if n % 2 == 0 else 0.0


@pytest.mark.parametrize("n", range(0, 21))
@pytest.mark.parametrize("kinks", KINKS)
def test_moments(n, kinks):
  x, w = quadrature.normal_rule(kinks)
  # Odd moments cancel: their error is relative to E|Z|^n.
  size = double_factorial_moment(n + n % 2)
  assert w @ x**n == pytest.approx(double_factorial_moment(n), rel=1e-13, abs=1e-14 * size)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-13, 13), max_size=4), st.integers(2, 60))
def test_any_kinks_leave_the_rule_exact(kinks, panels):
  x, w = quadrature.normal_rule(kinks, panels=panels, order=24)
  assert x.shape == w.shape == ((panels + len(kinks)) * 24,)
  assert (w >= 0).all()
  assert w.sum() == pytest.approx(1, abs=1e-6 if panels < 12 else 1e-13)


@settings(deadline=None, max_examples=50)
@given(st.floats(-6, 6))
def test_kinked_means(kink):
  x, w = quadrature.normal_rule((kink,))
  density = math.exp(-(kink**2) / 2) / math.sqrt(2 * math.pi)
  above = math.erfc(kink / math.sqrt(2)) / 2
  assert w @ (x > kink) == pytest.approx(above, abs=1e-14)
  assert w @ np.maximum(x - kink, 0) == pytest.approx(density - kink * above, abs=1e-14)
  square = (1 + kink**2) * above - kink * density
  assert w @ np.maximum(x - kink, 0) ** 2 == pytest.approx(square, abs=1e-13)


def test_batched_kinks_make_a_rule_each():
  kinks = np.array([[[0.0, 1.0], [-2.0, 30.0]], [[0.4, 0.4], [np.inf, -np.inf]]])
  x, w = quadrature.normal_rule(kinks, panels=20, order=10)
  assert x.shape == w.shape == (2, 2, 220)
  for index in np.ndindex(2, 2):
    own_x, own_w = quadrature.normal_rule(kinks[index], panels=20, order=10)
    np.testing.assert_array_equal(x[index], own_x)
    np.testing.assert_array_equal(w[index], own_w)


def relu(x):
  return np.maximum(x, 0)


@pytest.mark.parametrize("c", [-1, -1 + 1e-12, -0.9, -0.3, 0, 1e-9, 0.5, 0.999, 1 - 1e-9, 1])
@pytest.mark.parametrize(("scale1", "scale2"), [(1, 1), (0.01, 7), (3, 0.5)])
def test_arc_cosine_kernel(c, scale1, scale2):
  relus = quadrature.bivariate_expectation(relu, c, scale1, scale2, (0.0,))
  assert relus == pytest.approx(scale1 * scale2 * arc_cosine_kernel(1, c), rel=1e-12, abs=1e-15)
  steps = quadrature.bivariate_expectation(lambda x: 1.0 * (x > 0), c, scale1, scale2, (0.0,))
  assert steps == pytest.approx(arc_cosine_kernel(0, c), rel=1e-12, abs=1e-13)


# (vectorised, on floats, kinks): a value jump, slope jumps, curvature jumps, several kinks.
FUNCTIONS = {
  "step": (lambda x: 1.0 * (x > 0.4), lambda x: float(x > 0.4), (0.4,)),
  "hinge": (lambda x: np.maximum(x - 0.7, 0), lambda x: max(x - 0.7, 0.0), (0.7,)),
  "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: x / (1 + abs(x)), (0.0,)),
  "elu": (
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    lambda x: x if x > 0 else math.expm1(x),
    (0.0,),
  ),
  "clip": (lambda x: np.clip(x, -1, 0.5), lambda x: min(max(x, -1.0), 0.5), (-1.0, 0.5)),
  "kinked wave": (
    lambda x: np.abs(np.sin(x)) * (np.abs(x) < 3 * math.pi),
    lambda x: abs(math.sin(x)) * (abs(x) < 3 * math.pi),
    tuple(k * math.pi for k in range(-3, 4)),
  ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("c", [-0.9999, -0.6, 0.0, 0.3, 0.95, 0.99999])
@pytest.mark.parametrize(("scale1", "scale2"), [(1.0, 1.0), (0.6, 1.8)])
def test_kinked_functions_against_scipy(name, c, scale1, scale2):
  vectorised, scalar, kinks = FUNCTIONS[name]
  value = quadrature.bivariate_expectation(vectorised, c, scale1, scale2, kinks)
  expected = covariance(scalar, c, scale1, scale2, kinks)
  assert value == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_correlations_of_one_need_one_variable(name):
  vectorised, scalar, kinks = FUNCTIONS[name]
  for sign in (1, -1):
    value = quadrature.bivariate_expectation(vectorised, float(sign), 1.3, 0.9, kinks)
    lines = [k / 1.3 for k in kinks] + [sign * k / 0.9 for k in kinks]
    expected = expectation(lambda z, s=sign: scalar(1.3 * z) * scalar(s * 0.9 * z), lines)
    assert value == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(
  c=st.floats(-1, 1), kink=st.floats(-2, 2), scale1=st.floats(0.1, 4), scale2=st.floats(0.1, 4)
)
def test_swapping_the_variables_changes_nothing(c, kink, scale1, scale2):
  def f(x):
    return np.where(x > kink, np.sin(x - kink), 0.0)

  one = quadrature.bivariate_expectation(f, c, scale1, scale2, (kink,))
  other = quadrature.bivariate_expectation(f, c, scale2, scale1, (kink,))
  assert one == pytest.approx(other, abs=1e-11)


@settings(deadline=None, max_examples=30)
@given(c=st.floats(-1, 1), scale1=st.floats(0.1, 3), scale2=st.floats(0.1, 3))
def test_smooth_closed_forms(c, scale1, scale2):
  def value(f):
    return quadrature.bivariate_expectation(f, c, scale1, scale2, ())

  variance = scale1**2 * scale2**2
  assert value(lambda x: x) == pytest.approx(c * scale1 * scale2, abs=1e-12)
  assert value(np.square) == pytest.approx(variance * (1 + 2 * c * c), rel=1e-11)
  exponent = (scale1**2 + scale2**2) / 2
  assert value(np.sin) == pytest.approx(
    math.exp(-exponent) * math.sinh(c * scale1 * scale2), abs=1e-12
  )


def test_hermite_polynomials_are_orthonormal():
  x, w = np.polynomial.hermite_e.hermegauss(128)  # exact up to degree 255
  h = quadrature.hermite_polynomials(x, 128)
  np.testing.assert_allclose((h * w / math.sqrt(2 * math.pi)) @ h.T, np.eye(128), atol=1e-12)


def test_hermite_coefficients_of_an_exponential():
  x, w = quadrature.normal_rule()
  coefficients = quadrature.hermite_polynomials(x, 128) @ (w * np.exp(0.5 * x))
  # Generating function: exp(t x - t^2 / 2) = sum_n t^n He_n(x) / n!.
  expected = [math.exp(0.125 + n * math.log(0.5) - math.lgamma(n + 1) / 2) for n in range(128)]
  np.testing.assert_allclose(coefficients, expected, atol=1e-13)


def test_hermite_polynomials_by_name():
  x = np.linspace(-3, 3, 13)
  for n in range(12):
    classical = np.polynomial.hermite_e.hermeval(x, [0] * n + [1]) / math.sqrt(math.factorial(n))
    np.testing.assert_allclose(
      quadrature.hermite_polynomials(x, 12)[n], classical, rtol=1e-11, atol=1e-12
    )
