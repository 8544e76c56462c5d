"""Closed-form jets of the named activations against JAX and analytic derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import derivatives_of

import tatnet
from tatnet.layer import activations, derivatives

NAMES = sorted(activations.ACTIVATIONS)
# Each side of every kink, the bulk of a normal variable, and its far tails.
GRID = np.concatenate([np.linspace(-12.05, 12.05, 242), [-1e-6, 1e-6]])


@pytest.mark.parametrize("name", NAMES)
def test_jet_equals_jax_derivatives(name):
  activation = activations.ACTIVATIONS[name]
  expected = derivatives_of(activation.function, 3)(GRID)
  jet, bulk = activation.jet(GRID), np.abs(GRID) < 4
  np.testing.assert_allclose(jet[:, bulk], expected[:, bulk], rtol=1e-12, atol=1e-13)
  # Further out 1 - tanh(large)^2 has few digits left, in JAX as here.
  np.testing.assert_allclose(jet, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_each_row_is_the_derivative_of_the_one_before(name):
  activation = activations.ACTIVATIONS[name]
  far = np.min(np.abs(GRID[:, None] - np.array([*activation.kinks, np.inf])), axis=1) > 1e-2
  x, h = GRID[far], 1e-3
  above, below = activation.jet(x + h), activation.jet(x - h)
  above2, below2 = activation.jet(x + 2 * h), activation.jet(x - 2 * h)
  slopes = (8 * (above - below) - (above2 - below2)) / (12 * h)
  np.testing.assert_allclose(activation.jet(x)[1:], slopes[:-1], rtol=1e-9, atol=2e-10)


# Formulas spelled out with the standard library, independent of JAX's definitions.
FORMULAS = {
  "asinh": math.asinh,
  "atan": math.atan,
  "bentid": lambda x: (math.sqrt(x * x + 1) - 1) / 2 + x,
  "cos": math.cos,
  "elu": lambda x: x if x > 0 else math.expm1(x),
  "erf": math.erf,
  "gelu": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
  "gelu_exact": lambda x: x / 2 * math.erfc(-x / math.sqrt(2)),
  "hard_tanh": lambda x: max(-1.0, min(1.0, x)),
  "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
  "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
  "relu": lambda x: max(x, 0.0),
  "relu6": lambda x: min(max(x, 0.0), 6.0),
  "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
  "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
  "silu": lambda x: x / (1 + math.exp(-x)),
  "sin": math.sin,
  "softplus": lambda x: math.log1p(math.exp(x)),
  "softsign": lambda x: x / (1 + abs(x)),
  "square": lambda x: x * x,
  "swish": lambda x: x / (1 + math.exp(-x)),
  "tanh": math.tanh,
}


def test_every_name_has_a_formula():
  assert set(FORMULAS) == set(tatnet.activation_names())


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_values(name):
  expected = [FORMULAS[name](x) for x in GRID]
  activation = activations.ACTIVATIONS[name]
  np.testing.assert_allclose(activation.jet(GRID)[0], expected, rtol=1e-13, atol=1e-14)
  with jax.enable_x64(True):
    values = activation.function(jnp.asarray(GRID))
  np.testing.assert_allclose(values, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (4,), (2, 3, 4)])
def test_jet_stacks_on_a_new_leading_axis(name, shape):
  x = np.linspace(-2.5, 2.5, math.prod(shape)).reshape(shape)
  jet = activations.ACTIVATIONS[name].jet(x)
  assert jet.shape == (4, *shape)
  assert jet.dtype == np.float64


@pytest.mark.parametrize("name", NAMES)
def test_jet_is_finite_where_a_large_input_can_lie(name):
  x = np.array([-700.0, -300.0, -40.0, 40.0, 300.0, 700.0])
  assert np.isfinite(activations.ACTIVATIONS[name].jet(x)).all()


@settings(deadline=None, max_examples=50)
@given(slope=st.floats(-2, 2), x=st.floats(-50, 50).filter(bool))
def test_leaky_relu_of_any_slope(slope, x):
  jet = activations.leaky_relu(slope).jet(np.array([x]))
  gain = 1.0 if x > 0 else slope
  np.testing.assert_array_equal(jet[:, 0], [gain * x, gain, 0, 0])


# (function, its value and first three derivatives)
ANALYTIC = [
  (
    lambda x: x * jnp.exp(-(x**2)),
    lambda x: (
      np.array([x, 1 - 2 * x**2, 4 * x**3 - 6 * x, -8 * x**4 + 24 * x**2 - 6]) * np.exp(-(x**2))
    ),
  ),
  (
    lambda x: jnp.log1p(x**2),
    lambda x: np.array(
      [
        np.log1p(x**2),
        2 * x / (1 + x**2),
        2 * (1 - x**2) / (1 + x**2) ** 2,
        4 * x * (x**2 - 3) / (1 + x**2) ** 3,
      ]
    ),
  ),
  (
    jnp.abs,
    lambda x: np.array([np.abs(x), np.sign(x), 0 * x, 0 * x]),
  ),
  (
    lambda x: jnp.where(x > 0.5, (x - 0.5) ** 3, 0.0),
    lambda x: np.array([(x - 0.5) ** 3, 3 * (x - 0.5) ** 2, 6 * (x - 0.5), 6 + 0 * x]) * (x > 0.5),
  ),
]


@pytest.mark.parametrize(("function", "expected"), ANALYTIC)
def test_jax_function_of_a_user(function, expected):
  x = np.linspace(-4.03, 4.01, 101)
  jet = derivatives.of_jax_function(function)
  np.testing.assert_allclose(jet(x), expected(x), rtol=1e-12, atol=1e-13)
  grid = x[:100].reshape(4, 25)
  np.testing.assert_allclose(jet(grid), expected(grid), rtol=1e-12, atol=1e-13)


def test_jax_function_with_a_custom_derivative_rule():
  @jax.custom_jvp
  def cube(x):
    return x**3

  cube.defjvp(lambda x, t: (cube(x[0]), 3 * x[0] ** 2 * t[0]))
  x = np.linspace(-2, 2, 21)
  expected = [x**3, 3 * x**2, 6 * x, 6 + 0 * x]
  np.testing.assert_allclose(derivatives.of_jax_function(cube)(x), expected, rtol=1e-14, atol=1e-14)


def test_float64_stays_inside_the_call():
  assert not jax.config.jax_enable_x64
  jet = derivatives.of_jax_function(jnp.tanh)
  assert jet(np.array([0.1, 0.2])).dtype == np.float64
  assert not jax.config.jax_enable_x64
  assert jnp.asarray(0.5).dtype == jnp.float32


def test_float64_stays_inside_a_call_that_fails():
  def broken(x):
    raise RuntimeError("broken")

  with pytest.raises(RuntimeError, match="broken"):
    derivatives.of_jax_function(broken)(np.zeros(1))
  assert not jax.config.jax_enable_x64


def test_float32_inputs_are_evaluated_in_float64():
  x = np.linspace(-1, 1, 5, dtype=np.float32)
  np.testing.assert_allclose(
    derivatives.of_jax_function(jnp.sin)(x)[1], np.cos(x.astype(np.float64)), rtol=1e-15
  )


def test_an_activation_takes_its_jet_from_jax_by_default():
  own = tatnet.Activation(lambda x: jnp.sin(3 * x) + x, name="wavy")
  x = np.linspace(-2, 2, 9)
  s, c = np.sin(3 * x), np.cos(3 * x)
  np.testing.assert_allclose(
    own.jet(x), [s + x, 3 * c + 1, -9 * s, -27 * c], rtol=1e-13, atol=1e-13
  )
