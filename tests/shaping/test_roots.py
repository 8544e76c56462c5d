"""The bracketing root finder against SciPy's, on tame and on very skewed functions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from tatnet.shaping.roots import bracketed_root, root_above

# (function, low, high)
FUNCTIONS = {
  "line": (lambda x: 3 * x - 1, -1.0, 4.0),
  "cosine": (lambda x: math.cos(x) - x, 0.0, 1.0),
  "cubic": (lambda x: x**3 - 2, 0.0, 2.0),
  "decreasing": (lambda x: math.exp(-x) - 0.3, 0.0, 5.0),
  "not monotonic": (lambda x: math.sin(3 * x) + 0.1 * x, 0.5, 2.0),
  "explosive": (lambda x: math.exp(60 * x) - 2, -10.0, 10.0),
  "high power": (lambda x: x**31 - 1e-9, 0.0, 10.0),
  "one minus high power": (lambda x: (1 - x) ** 15 - 1e-20, 0.0, 1.0),
  "steep step": (lambda x: math.atan(1e8 * (x - 0.3)), -1.0, 7.0),
  "near a pole": (lambda x: 1 / x - 1e6, 1e-9, 1e3),
  "infinite slope": (lambda x: math.copysign(abs(x - 0.3) ** 0.1, x - 0.3), 0.0, 1.0),
  "logarithm": (lambda x: math.log(x) + 30, 1e-300, 1.0),
  "flat tail": (lambda x: math.exp(-x) - 1e-15, 0.0, 100.0),
  "large values": (lambda x: 1e250 * (x**3 - 0.2), 0.0, 1.0),
  "small values": (lambda x: 1e-250 * (x**3 - 0.2), 0.0, 1.0),
  "far from zero": (lambda x: (x - 1e8) ** 3 + (x - 1e8) - 1, 1e8 - 50, 1e8 + 70),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_agrees_with_scipy(name):
  f, low, high = FUNCTIONS[name]
  expected = optimize.brentq(f, low, high, xtol=1e-300, rtol=9e-16, maxiter=1000)
  assert bracketed_root(f, low, high) == pytest.approx(expected, rel=3e-15, abs=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_order_of_the_ends_and_the_sign_do_not_matter(name):
  f, low, high = FUNCTIONS[name]
  root = bracketed_root(f, low, high)
  assert bracketed_root(f, high, low) == pytest.approx(root, rel=3e-15, abs=0)
  assert bracketed_root(lambda x: -f(x), low, high) == root


@settings(deadline=None, max_examples=100)
@given(root=st.floats(-0.99, 0.99), power=st.sampled_from([1, 3, 5]), skew=st.floats(-20, 20))
def test_a_known_root(root, power, skew):
  found = bracketed_root(lambda x: (x - root) ** power * math.exp(skew * x), -1.0, 1.0)
  # Multiple roots are approached linearly, in a limited number of steps.
  assert found == pytest.approx(root, abs=1e-12 if power == 1 else 1e-8)


@settings(deadline=None, max_examples=100)
@given(low=st.floats(-5, 0), high=st.floats(0.01, 5), target=st.floats(0.001, 0.999))
def test_it_stays_inside_the_bracket(low, high, target):
  level = math.tanh(low) + target * (math.tanh(high) - math.tanh(low))
  seen = []

  def f(x):
    seen.append(x)
    return math.tanh(x) - level

  root = bracketed_root(f, low, high)
  assert low <= root <= high
  assert all(low <= x <= high for x in seen)
  assert root == pytest.approx(math.atanh(level), abs=1e-12)
  assert abs(f(root)) == min(abs(math.tanh(x) - level) for x in seen)


@pytest.mark.parametrize("root", [-1.0, 2.0])
def test_a_root_at_an_end(root):
  assert bracketed_root(lambda x: x - root, -1.0, 2.0) == root
  assert bracketed_root(lambda x: (root - x) ** 3, -1.0, 2.0) == root


def test_both_ends_are_roots():
  assert bracketed_root(lambda x: x * (x - 1), 0.0, 1.0) in (0.0, 1.0)


@pytest.mark.parametrize(
  "f", [lambda x: x * x + 1, lambda x: -1.0, lambda x: 1e-300, lambda x: math.nan]
)
def test_no_sign_change(f):
  with pytest.raises(ValueError, match="no sign change"):
    bracketed_root(f, -1.0, 2.0)


def test_the_error_states_the_ends():
  with pytest.raises(ValueError, match=r"f\(1.0\) = 2.0, f\(2.0\) = 5.0"):
    bracketed_root(lambda x: x * x + 1, 1.0, 2.0)


def evaluations(name):
  f, low, high = FUNCTIONS[name]
  count = 0

  def counted(x):
    nonlocal count
    count += 1
    return f(x)

  bracketed_root(counted, low, high)
  return count


@pytest.mark.parametrize("name", ["line", "cosine", "cubic", "decreasing", "not monotonic"])
def test_smooth_functions_need_far_fewer_evaluations_than_bisection(name):
  # Bisection halves a bracket of width 1 to double precision in 53.
  assert evaluations(name) <= 30


@pytest.mark.parametrize("target", [1e-6, 0.3, 40.0, 1e8])
def test_the_root_above_a_point_is_found_however_far_it_lies(target):
  assert root_above(lambda x: x**3 - target**3, 0.0, 0.1) == pytest.approx(target, rel=1e-12)


@pytest.mark.parametrize("f", [lambda x: -1.0, lambda x: x + 1.0, lambda x: math.nan])
def test_where_there_is_no_root_above(f):
  assert root_above(f, 0.0, 1.0) is None
