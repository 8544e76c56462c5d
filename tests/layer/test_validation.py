"""Functions that are no activations are refused, with the reason and the remedy."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import tatnet

METHODS = [tatnet.DKS(), tatnet.TAT(), tatnet.EOC(0.2)]


def refuse(error, function, *fragments, method=METHODS[0]):
  with pytest.raises(error) as caught:
    tatnet.transform_activation(function, tatnet.chain(20), method)
  assert type(caught.value) is error
  message = str(caught.value)
  assert [fragment for fragment in fragments if fragment not in message] == [], message


def step(x):
  return jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)


def sawtooth(x):
  return x - jnp.floor(x)


def far_step(x):
  return jnp.tanh(x) + jnp.where(x > 5, 0.5, 0.0).astype(x.dtype)


@pytest.mark.parametrize(
  "function",
  [
    jax.nn.softmax,
    lambda x: jax.nn.softmax(x, axis=0),
    lambda x: jnp.cumsum(x, axis=-1),
    lambda x: x - jnp.mean(x),
    lambda x: x / (1 + jnp.max(jnp.abs(x))),
    lambda x: x[::-1],
    jnp.sort,
  ],
)
def test_functions_that_mix_entries(function):
  refuse(ValueError, function, function.__name__, "expected an elementwise function")


@pytest.mark.parametrize(
  "function",
  [
    jnp.cumsum,  # flattens
    jnp.sum,
    jax.nn.logsumexp,
    lambda x: jnp.concatenate([x, x]),
    lambda x: jnp.tanh(x).astype(jnp.float16),
    lambda x: jnp.sign(x).astype(jnp.int32),
    lambda x: None,
    lambda x: (x, x),
  ],
)
def test_functions_that_change_shape_or_dtype(function):
  given = f"{function.__name__} maps a float32 array of shape (3, 5) to"
  refuse(TypeError, function, given, "keeps shape and dtype")


def test_a_function_that_forces_float32():
  def rounding(x):
    return jnp.tanh(x).astype(jnp.float32)

  refuse(TypeError, rounding, "rounding", "keeps shape and dtype")


@pytest.mark.parametrize("function", [math.tanh, jax.nn.glu, lambda x, y: x * y])
def test_functions_that_fail_on_arrays(function):
  refuse(TypeError, function, function.__name__, "failed on a float32 array", "It said:")


def test_a_numpy_function_does_not_end_the_process():
  """JAX cannot hold a weak reference to a ufunc, and some versions crash at the second attempt."""
  program = """
import numpy, tatnet
for _ in range(2):
  try:
    tatnet.transform_activation(numpy.tanh, tatnet.chain(3), tatnet.DKS())
  except TypeError as error:
    print("refused:", "expected an elementwise JAX function" in str(error))
"""
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert result.stdout == "refused: True\n" * 2


@pytest.mark.parametrize("function", [jnp.log, jnp.sqrt, jnp.arcsin])
def test_functions_that_are_not_finite(function):
  refuse(ValueError, function, function.__name__, "not finite at x=", "[-12, 12]")


@pytest.mark.parametrize("function", [jnp.tan, lambda x: 1 / x, lambda x: 1 / (x - 0.3)])
def test_poles(function):
  refuse(ValueError, function, function.__name__, "x=", "expected")


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jnp.abs(x - 0.5),
    lambda x: jax.nn.leaky_relu(x + 0.25),
    lambda x: jnp.maximum(x, -2.0),
    lambda x: jnp.tanh(x) + jnp.abs(x - 0.3) / 2,
    lambda x: x + 1e-3 * jnp.abs(x + 7.3),
    jax.nn.hard_sigmoid,
    jax.nn.elu,  # only its curvature jumps
    lambda x: jnp.square(jax.nn.relu(x)),
    lambda x: x**9 + jnp.abs(x - 0.3),
  ],
)
def test_kinks_that_were_not_declared(function):
  fragments = (function.__name__, "jumps at x=", "Declare the point", "kinks=(")
  refuse(ValueError, function, *fragments)


def test_a_kink_that_was_declared_elsewhere():
  activation = tatnet.Activation(lambda x: jnp.abs(x - 0.2), kinks=(1.0,), name="corner")
  refuse(ValueError, activation, "corner", "declared kinks (1.0,)", "kinks=(0.2,)")


def test_all_kinks_are_listed_and_declaring_them_is_enough():
  def spline(x):
    return jnp.interp(x, jnp.arange(-2.0, 3.0), jnp.array([-1.0, -0.9, 0.1, 0.5, 0.6]))

  refuse(ValueError, spline, "Declare the points: ", "kinks=(-2, -1, 0, 1, 2))")
  activation = tatnet.Activation(spline, kinks=(-2, -1, 0, 1, 2))
  assert tatnet.local_maps(activation).C(1.0) == pytest.approx(1)


@pytest.mark.parametrize(
  "function",
  [
    step,
    jnp.sign,
    sawtooth,
    far_step,
    tatnet.Activation(step, kinks=(0.0,)),
    tatnet.Activation(far_step, kinks=(5.0,)),
    tatnet.Activation(sawtooth, kinks=range(-13, 14)),
  ],
)
def test_discontinuous_functions(function):
  name = getattr(function, "name", None) or function.__name__
  with pytest.raises(ValueError, match=rf"{name}.* jumps.*[Dd]iscontinuous|continuous function"):
    tatnet.transform_activation(function, tatnet.chain(20), tatnet.DKS())


@pytest.mark.parametrize("function", [jnp.ones_like, lambda x: 2 * x + 1])
def test_functions_without_a_bend(function):
  refuse(ValueError, function, "straight line", "Choose another")
  activation = tatnet.Activation(function)
  for method, what in zip(METHODS, ("by DKS", "by TAT", "no edge of chaos"), strict=True):
    refuse(ValueError, activation, function.__name__, what, "Choose another", method=method)


@pytest.mark.parametrize("method", METHODS, ids=["DKS", "TAT", "EOC"])
def test_every_method_checks(method):
  refuse(ValueError, jax.nn.softmax, "softmax", "elementwise", method=method)
  refuse(TypeError, jnp.sum, "sum", "keeps shape and dtype", method=method)


@pytest.mark.parametrize(
  ("arguments", "error", "fragments"),
  [
    ({"function": 3}, TypeError, ("function=3", "elementwise JAX function")),
    ({"function": "tanh"}, TypeError, ("function='tanh'", "elementwise JAX function")),
    ({"function": jnp.abs, "kinks": (math.nan,)}, ValueError, ("(nan,)", "finite numbers")),
    ({"function": jnp.abs, "kinks": (math.inf,)}, ValueError, ("(inf,)", "finite numbers")),
    ({"function": jnp.abs, "kinks": 0.0}, TypeError, ("kinks=0.0", "expected")),
    ({"function": jnp.abs, "kinks": ("a",)}, TypeError, ("'a'", "expected")),
  ],
)
def test_descriptions_of_activations(arguments, error, fragments):
  with pytest.raises(error) as caught:
    tatnet.Activation(**arguments)
  assert [f for f in fragments if f not in str(caught.value)] == [], str(caught.value)
