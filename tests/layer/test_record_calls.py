"""Calling a TransformedActivation: values, dtypes, precision, derivatives, JAX transformations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

POINTS = np.linspace(-4, 4, 161)
# Half the largest relative spacing of each float type.
EPSILON = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
_erf = np.vectorize(math.erf)

REFERENCES = {
  "tanh": np.tanh,
  "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
  "erf": _erf,
  "relu": lambda x: np.maximum(x, 0),
  "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
  "softplus": lambda x: np.log1p(np.exp(x)),
  "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
  "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
  "swish": lambda x: x / (1 + np.exp(-x)),
  "silu": lambda x: x / (1 + np.exp(-x)),
  "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
  "gelu_exact": lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
  "bentid": lambda x: (np.sqrt(x**2 + 1) - 1) / 2 + x,
  "atan": np.arctan,
  "asinh": np.arcsinh,
  "square": np.square,
  "softsign": lambda x: x / (1 + np.abs(x)),
  "sin": np.sin,
  "cos": np.cos,
  "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
  "hard_tanh": lambda x: np.clip(x, -1, 1),
  "relu6": lambda x: np.clip(x, 0, 6),
}
SOLVABLE = sorted(set(REFERENCES) - {"square", "hard_tanh", "relu6"})
every_act = pytest.mark.parametrize("name", [*SOLVABLE, "TReLU"])
some_acts = pytest.mark.parametrize("name", ["tanh", "softplus", "selu", "relu", "TReLU"])


@functools.cache
def solved(name):
  if name == "TReLU":
    return tatnet.transform_activation("leaky_relu", tatnet.chain(49), tatnet.TAT(0.9))
  return tatnet.transform_activation(name, tatnet.chain(49), tatnet.DKS(1.5))


def in_float64(act, x):
  with jax.enable_x64(True):
    return np.asarray(act(jnp.asarray(x, jnp.float64)))


def formula(name, x):
  """gamma (phi(alpha x + beta) + delta), from the numbers of the record."""
  act = solved(name)
  argument = (act.input_scale or 1.0) * x + (act.input_shift or 0.0)
  if act.negative_slope is None:
    phi = REFERENCES[act.name](argument)
  else:
    phi = np.where(argument > 0, argument, act.negative_slope * argument)
  return act.output_scale * (phi + (act.output_shift or 0.0))


@pytest.mark.parametrize("name", tatnet.activation_names())
def test_untransformed_it_is_the_base_function(name):
  found = in_float64(tatnet.TransformedActivation(name), POINTS)
  np.testing.assert_allclose(found, REFERENCES[name](POINTS), rtol=1e-12, atol=1e-13)


@every_act
def test_transformed_it_follows_its_formula(name):
  found = in_float64(solved(name), POINTS)
  np.testing.assert_allclose(found, formula(name, POINTS), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@some_acts
def test_dtype_and_shape_are_kept(name, dtype):
  for shape in ((), (0,), (2, 3, 4)):
    y = solved(name)(jnp.ones(shape, dtype))
    assert (y.dtype, y.shape) == (jnp.dtype(dtype), shape)


@some_acts
def test_float64_is_kept(name):
  with jax.enable_x64(True):
    assert solved(name)(jnp.ones(3, jnp.float64)).dtype == jnp.float64


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
  "name", ["tanh", "softplus", "sigmoid", "gelu_exact", "selu", "relu", "softsign", "TReLU"]
)
def test_low_precision_costs_one_rounding(name, dtype):
  """Given an input of that type the result is as near as the type and float32 inside allow."""
  act = solved(name)
  x = jnp.asarray(POINTS, dtype)
  exact = formula(name, np.asarray(x.astype(jnp.float32), np.float64))
  found = np.asarray(act(x).astype(jnp.float32), np.float64)
  # What cancels between phi and output_shift was rounded to float32 and then scaled.
  inside = 4 * EPSILON["float32"] * (act.output_scale + np.abs(exact))
  assert np.all(np.abs(found - exact) <= 1.01 * EPSILON[dtype] * np.abs(exact) + inside)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@some_acts
def test_low_precision_under_jit(name, dtype):
  """XLA may keep more digits than asked for, never fewer."""
  x = jnp.asarray(POINTS, dtype)
  exact = formula(name, np.asarray(x.astype(jnp.float32), np.float64))
  found = np.asarray(jax.jit(solved(name))(x).astype(jnp.float32), np.float64)
  np.testing.assert_allclose(found, exact, rtol=1.01 * EPSILON[dtype], atol=1e-5)


@every_act
def test_gradient_against_finite_differences(name):
  act = solved(name)
  kink = -(act.input_shift or 0) / (act.input_scale or 1)
  x = POINTS[::8][np.abs(POINTS[::8] - kink) > 1e-3]
  step = 1e-5
  difference = (formula(name, x + step) - formula(name, x - step)) / (2 * step)
  with jax.enable_x64(True):
    gradient = np.asarray(jax.vmap(jax.grad(act))(jnp.asarray(x)))
  np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-7)


@some_acts
def test_under_jit_vmap_and_scan(name):
  act, x = solved(name), jnp.asarray(POINTS, jnp.float32)
  static = jax.jit(lambda a, v: a(v), static_argnums=0)
  scanned = jax.lax.scan(lambda carry, v: (carry, act(v)), 0, x)[1]
  for found in (act(x), jax.jit(act)(x), jax.vmap(act)(x), static(act, x), scanned):
    np.testing.assert_allclose(found, formula(name, POINTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x", [0.5, [0.5, -1.0], np.float32(0.5), np.ones((2, 2))], ids=repr)
def test_whatever_jax_takes_for_floats_is_accepted(x):
  np.testing.assert_allclose(solved("tanh")(x), formula("tanh", np.asarray(x)), rtol=1e-5)


@pytest.mark.parametrize("x", [3, jnp.arange(3), np.arange(3), jnp.array([True]), 1j], ids=repr)
def test_other_types_are_refused(x):
  with pytest.raises(TypeError, match=r"tanh got an array of dtype .* expected a float array"):
    solved("tanh")(x)


def test_a_users_function():
  def bump(x):
    return x + jnp.exp(-(x**2)) / 2

  act = tatnet.transform_activation(bump, tatnet.chain(20), tatnet.DKS(1.5))
  argument = act.input_scale * POINTS + act.input_shift
  phi = argument + np.exp(-(argument**2)) / 2
  expected = act.output_scale * (phi + act.output_shift)
  np.testing.assert_allclose(in_float64(act, POINTS), expected, rtol=1e-12, atol=1e-12)
  assert act(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
