"""What the local maps accept and return: arrays, defaults, limits, users' own functions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet import TransformedActivation


def test_arrays_broadcast():
  maps = tatnet.local_maps("tanh")
  c, q1, q2 = np.array([[-0.5], [0.2]]), np.array([0.5, 1.0, 2.0]), 1.5
  values = maps.C(c, q1, q2=q2)
  assert values.shape == (2, 3)
  assert values.dtype == np.float64
  for i, j in np.ndindex(2, 3):
    assert values[i, j] == maps.C(float(c[i, 0]), float(q1[j]), 1.5)
  assert maps.Q(np.zeros((2, 0))).shape == (2, 0)
  np.testing.assert_array_equal(maps.Q(jnp.array([1.0, 2.0])), [maps.Q(1.0), maps.Q(2.0)])
  np.testing.assert_array_equal(maps.c_slope([0.1, 0.2]), [maps.c_slope(0.1), maps.c_slope(0.2)])


@pytest.mark.parametrize("number", [1, 1.0, np.float32(1), np.array(1.0), jnp.float32(1)])
@pytest.mark.parametrize("name", ["tanh", "relu", "selu", "erf", "sin"])
def test_scalars_give_floats(name, number):
  maps = tatnet.local_maps(name)
  for method in (maps.Q, maps.q_slope, maps.C, maps.c_slope, maps.c_curvature):
    assert type(method(number)) is float


def test_none_means_the_operating_point():
  maps = TransformedActivation("tanh", operating_q=0.7).maps
  assert maps.C(0.5, None, 2.0) == maps.C(0.5, 0.7, 2.0)
  assert maps.C(0.5, q2=None) == maps.C(0.5, 0.7, 0.7)
  c = np.array([0.1, 0.5])
  np.testing.assert_array_equal(maps.C(c, q1=None, q2=2.0), maps.C(c, 0.7, 2.0))


def test_wrong_arguments_are_errors():
  maps = tatnet.local_maps("tanh")
  for call in (
    lambda: maps.Q(1.0, 2.0),
    lambda: maps.C(),
    lambda: maps.C(0.5, 1.0, 1.0, 1.0),
    lambda: maps.C(0.5, c=0.2),
    lambda: maps.C(0.5, q3=1.0),
  ):
    with pytest.raises(TypeError):
      call()


@pytest.mark.parametrize("name", ["relu", "softsign", "tanh", "hard_tanh", "erf"])
def test_a_vanishing_input_leaves_only_the_bias(name):
  maps = TransformedActivation(name, weight_scale=1.4, bias_scale=0.1).maps
  assert maps.Q(0.0) == pytest.approx(0.01, rel=1e-14)
  expected = math.sqrt(0.01 / maps.Q(1.0))
  for c in (-1.0, 0.5, 1.0):
    assert maps.C(c, 0.0, 1.0) == pytest.approx(expected, rel=1e-12)
    assert maps.c_slope(c, 0.0, 1.0) == 0
    assert maps.c_curvature(c, 0.0, 1.0) == 0


def test_any_activation_that_does_not_vanish_at_zero_has_a_map_there():
  maps = tatnet.local_maps("sigmoid")
  assert maps.C(0.3, 0.0, 0.0) == pytest.approx(1, abs=1e-15)
  assert maps.Q(0.0) == pytest.approx(0.25, rel=1e-15)


@pytest.mark.parametrize("c", [-1.0000001, 1.0000001, math.nan, math.inf])
def test_cosines_outside_the_interval(c):
  maps = tatnet.local_maps("tanh")
  for method in (maps.C, maps.c_slope, maps.c_curvature):
    with pytest.raises(ValueError, match="not a cosine similarity"):
      method(c)
    with pytest.raises(ValueError, match="not a cosine similarity"):
      method(np.array([0.5, c]))


@pytest.mark.parametrize("q", [-1e-9, -1.0, math.nan, math.inf])
def test_wrong_q_values(q):
  maps = tatnet.local_maps("relu")
  for call in (
    lambda: maps.Q(q),
    lambda: maps.q_slope(q),
    lambda: maps.C(0.5, q),
    lambda: maps.c_slope(0.5, 1.0, q),
    lambda: maps.Q(np.array([1.0, q])),
  ):
    with pytest.raises(ValueError, match="not a q value"):
      call()


def test_undefined_maps():
  for maps in (tatnet.local_maps("relu"), tatnet.local_maps("tanh")):
    with pytest.raises(ValueError, match="not defined"):
      maps.C(0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="needs q > 0"):
      maps.q_slope(0.0)


def test_a_users_function_that_shares_a_name():
  def sin(x):
    return jnp.sin(2 * x)

  maps = tatnet.local_maps(sin)
  assert maps.Q(1.0) == pytest.approx(-math.expm1(-8) / 2, rel=1e-12)
  assert maps.c_slope(1.0) == pytest.approx(
    8 * math.exp(-4) * math.cosh(4) / -math.expm1(-8), rel=1e-11
  )


def test_a_users_rectifier_equals_the_named_one():
  own = tatnet.local_maps(tatnet.Activation(jax.nn.relu, kinks=(0.0,), name="own"))
  named = tatnet.local_maps("relu")
  for c in (-1.0, -0.4, 0.0, 0.7, 1.0):
    assert own.C(c) == pytest.approx(named.C(c), abs=1e-12)
    assert own.c_slope(c) == pytest.approx(named.c_slope(c), abs=1e-12)
    assert own.c_curvature(c) == pytest.approx(named.c_curvature(c), rel=1e-9)
