"""A function's derivative is its own: rules that say otherwise are refused, right ones are served."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet


def straight_through(values, derivative=lambda x: x):
  """The values of one function with the derivative of another."""
  return lambda x: derivative(x) + jax.lax.stop_gradient(values(x) - derivative(x))


def rounded(steps):
  return lambda x: jnp.round(jnp.tanh(x) * steps) / steps


@jax.custom_jvp
def clipped_rule(x):
  return jnp.tanh(x)


clipped_rule.defjvp(lambda x, t: (jnp.tanh(x[0]), jnp.clip(1 - x[0] ** 2, 0, 1) * t[0]))


@jax.custom_jvp
def no_second_derivative(x):
  return jnp.tanh(x)


no_second_derivative.defjvp(
  lambda x, t: (jnp.tanh(x[0]), jax.lax.stop_gradient(1 - jnp.tanh(x[0]) ** 2) * t[0])
)


@jax.custom_jvp
def spike(x):
  return (x > 0).astype(x.dtype)


spike.defjvp(lambda x, t: (spike(x[0]), t[0] / (1 + 10 * jnp.abs(x[0])) ** 2))


def reverse_rule(derivative):
  function = jax.custom_vjp(jnp.tanh)
  function.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * derivative(x),))
  return function


FOREIGN = {
  "straight-through tanh": straight_through(jnp.tanh),
  "straight-through rectifier": straight_through(jax.nn.relu),
  "leaky gradient of a rectifier": straight_through(jax.nn.relu, jax.nn.leaky_relu),
  "rounding": straight_through(jnp.round),
  "8 bits": straight_through(rounded(128), jnp.tanh),
  "12 bits": straight_through(rounded(4096), jnp.tanh),
  "a spike": spike,
  "forward rule": clipped_rule,
  "reverse rule": reverse_rule(lambda x: jnp.clip(1 - x * x, 0, 1)),
  "half a derivative": lambda x: x * jax.lax.stop_gradient(jax.nn.sigmoid(x)),
  "bfloat16 inside": lambda x: jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype),
  "float16 inside": lambda x: jax.nn.gelu(x.astype(jnp.float16)).astype(x.dtype),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_derivative(name):
  function = tatnet.Activation(FOREIGN[name], name="mine")
  with pytest.raises(ValueError, match="gives for the value of mine is not its own") as caught:
    tatnet.transform_activation(function, tatnet.chain(10), tatnet.DKS())
  assert "tatnet.Activation(function, jet=" in str(caught.value)
  assert "iscontinuous" not in str(caught.value)


def test_a_foreign_second_derivative():
  with pytest.raises(ValueError, match="gives for the derivative of no_second_derivative is not"):
    tatnet.local_maps(no_second_derivative)


def test_the_remedy_works():
  """The values' own derivatives make the maps those of the values."""
  own = tatnet.Activation(straight_through(jnp.tanh), jet=tatnet.Activation(jnp.tanh).jet)
  found, expected = tatnet.local_maps(own).values, tatnet.local_maps("tanh").values
  assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(expected), abs=1e-12)


def test_a_jet_of_another_function():
  wrong = tatnet.Activation(jnp.sin, jet=tatnet.Activation(jnp.tanh).jet)
  with pytest.raises(ValueError, match="where the function has"):
    tatnet.local_maps(wrong)


RIGHT = {
  "forward rule": jax.nn.silu,
  "reverse rule": reverse_rule(lambda x: 1 - jnp.tanh(x) ** 2),
  "reverse rule inside": lambda x: 2 * reverse_rule(lambda x: 1 - jnp.tanh(x) ** 2)(x / 2),
}
PLAIN = {
  "forward rule": "swish",
  "reverse rule": "tanh",
  "reverse rule inside": lambda x: 2 * jnp.tanh(x / 2),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("method", [tatnet.DKS(), tatnet.TAT()], ids=["DKS", "TAT"])
def test_rules_that_are_right(name, method):
  found = tatnet.transform_activation(RIGHT[name], tatnet.chain(20), method)
  expected = tatnet.transform_activation(PLAIN[name], tatnet.chain(20), method)
  for field in ("input_scale", "input_shift", "output_shift", "output_scale"):
    assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-7)


# Smooth, and with tails in which nothing but rounding is left.
SMOOTH = {
  "gelu": jax.nn.gelu,
  "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "a bump": lambda x: 1 - jnp.tanh(x) ** 2,
  "steep softplus": lambda x: jax.nn.softplus(100 * x) / 100,
  "product of tails": lambda x: x * jnp.tanh(jax.nn.gelu(x)),
  "logarithm of sigmoid": lambda x: x + jnp.log(jax.nn.sigmoid(x)),
  "difference": lambda x: jnp.logaddexp(x, 1.0) - jnp.logaddexp(x, -1.0),
  "large and small": lambda x: 1000 + jnp.tanh(x) - 1000,
  "fast": lambda x: jnp.sin(300 * x),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_are_not_refused(name):
  assert tatnet.local_maps(SMOOTH[name]).Q(1.0) > 0


def plain(x):
  return jnp.tanh(x) + 0.3 * x


CONSTANTS = np.array([0.1, 1.0, 0.3])
FLOAT32 = jnp.array([0.1, 1.0, 0.3], jnp.float32)


@pytest.mark.parametrize(
  "function",
  [
    lambda x: CONSTANTS[1] * jnp.tanh(x) + CONSTANTS[2] * x,
    lambda x: FLOAT32[1] * jnp.tanh(x) + np.float32(0.3) * x,
    lambda x: jnp.polyval(jnp.array([1.0, 0.0]), jnp.tanh(x)) + np.float64(0.3) * x,
    lambda x: (jnp.tanh(x.astype(jnp.float32)) + 0.3 * x.astype(jnp.float32)).astype(x.dtype),
    lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype) + 0.3 * x,
  ],
)
def test_constants_and_casts_inside(function):
  """To the precision that the function has: 32 bits."""
  found, expected = tatnet.local_maps(function), tatnet.local_maps(plain)
  for field, value in dataclasses.asdict(expected.values).items():
    assert getattr(found.values, field) == pytest.approx(value, rel=1e-5, abs=1e-6)
  assert found.C(0.4) == pytest.approx(expected.C(0.4), abs=1e-6)


@pytest.mark.parametrize(
  "method", [tatnet.DKS(), tatnet.TAT(), tatnet.EOC(0.2)], ids=["DKS", "TAT", "EOC"]
)
def test_every_method_serves_a_function_in_32_bits(method):
  def function(x):
    return plain(x.astype(jnp.float32)).astype(x.dtype)

  found = tatnet.transform_activation(function, tatnet.chain(20), method)
  expected = tatnet.transform_activation(plain, tatnet.chain(20), method)
  for field, value in dataclasses.asdict(expected.local).items():
    assert getattr(found.local, field) == pytest.approx(value, rel=1e-4, abs=1e-5)
  if isinstance(method, tatnet.EOC):
    assert found.weight_scale == pytest.approx(expected.weight_scale, rel=1e-4)


@pytest.mark.parametrize(
  ("function", "kinks", "what"),
  [
    (jnp.cbrt, (), "slope"),
    (jnp.cbrt, (0.0,), "slope"),
    (lambda x: jnp.sqrt(jnp.abs(x)), (0.0,), "slope"),
    (lambda x: jnp.abs(x) ** 1.5, (), "curvature"),
    (lambda x: jnp.abs(x - 1) ** 1.5, (1.0,), "curvature"),
    (lambda x: x * jnp.log(jnp.abs(x) + 1e-300), (0.0,), "slope"),
  ],
)
def test_continuous_functions_are_not_said_to_jump(function, kinks, what):
  with pytest.raises(ValueError, match=f"The {what} of steep is infinite at x=") as caught:
    tatnet.local_maps(tatnet.Activation(function, kinks=kinks, name="steep"))
  assert "jumps" not in str(caught.value)


def test_kinks_of_the_third_derivative():
  """They too keep integrals from converging, so that the remedy must name them."""

  def spline(x):
    return jnp.tanh(x) + 0.1 * jax.nn.relu(x - 0.3) ** 3 - 0.1 * jax.nn.relu(x - 1.7) ** 3

  with pytest.raises(ValueError, match=r"third derivative of spline jumps .*kinks=\(0.3, 1.7\)"):
    tatnet.local_maps(spline)
  declared = tatnet.Activation(spline, kinks=(0.3, 1.7))
  assert tatnet.local_maps(declared).C(1.0) == pytest.approx(1)


def test_far_kinks_count_where_the_signal_is_large():
  def bounded(x):
    return jnp.clip(x, 0, 20)

  once = tatnet.Activation(bounded, kinks=(0,), name="bounded")
  with pytest.raises(ValueError, match=r"jumps at x=20;.*kinks=\(20,\)"):
    tatnet.transform_activation(once, tatnet.chain(10), tatnet.EOC(0.2))
  with pytest.raises(ValueError, match=r"jumps at x=20;"):
    tatnet.local_maps(once).C(0.5, 90.0, 90.0)
  assert tatnet.local_maps(once).Q(1.0) == pytest.approx(0.5)
  act = tatnet.transform_activation(
    tatnet.Activation(bounded, kinks=(0, 20)), tatnet.chain(10), tatnet.EOC(0.2)
  )
  assert act.local.c_slope == pytest.approx(1, abs=1e-9)


def test_zero_and_constants():
  for function in (jnp.zeros_like, lambda x: jax.nn.relu(x) * 0, lambda x: jnp.full_like(x, 2.0)):
    for method in (tatnet.DKS(), tatnet.TAT(), tatnet.EOC(0.2)):
      with pytest.raises(ValueError, match=r"is the straight line 0 x \+ [02]"):
        tatnet.transform_activation(function, tatnet.chain(5), method)
  with pytest.raises(ValueError, match="maps one of them to 0"):
    tatnet.local_maps(jnp.zeros_like).C(0.5)
