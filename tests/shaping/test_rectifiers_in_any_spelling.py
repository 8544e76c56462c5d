"""A rectifier is one by its values: every spelling is served as the name is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

NET = tatnet.chain(20)
METHODS = [tatnet.DKS(), tatnet.EOC(), tatnet.TAT(0.8)]
LEAKY = [
  jax.nn.leaky_relu,
  functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
  tatnet.Activation(jax.nn.leaky_relu, kinks=(0,)),
  tatnet.Activation(lambda x: 3 * jnp.maximum(x, 0.1 * x), kinks=(0.0,), name="mine"),
  lambda x: jnp.where(x < 0, x, 0.1 * x),  # mirrored
  lambda x: 0.6 * x + 0.4 * jnp.abs(x),
]
RELU = [
  jax.nn.relu,
  lambda x: x * (x > 0),
  lambda x: -2 * jax.nn.relu(-x),
  tatnet.Activation(lambda x: (x + jnp.abs(x)) / 2, kinks=(0.0,), name="mine"),
]


@pytest.mark.parametrize("method", [tatnet.DKS(), tatnet.TAT(0.8)], ids=["DKS", "TAT"])
@pytest.mark.parametrize("function", LEAKY)
def test_methods_that_choose_the_slope(function, method):
  expected = tatnet.transform_activation("leaky_relu", NET, method)
  assert tatnet.transform_activation(function, NET, method) == expected


@pytest.mark.parametrize("function", RELU)
def test_relu(function):
  dks = tatnet.transform_activation("relu", NET, tatnet.DKS())
  assert tatnet.transform_activation(function, NET, tatnet.DKS()) == dks
  with pytest.raises(ValueError, match="expected 'leaky_relu'"):
    tatnet.transform_activation(function, NET, tatnet.TAT(0.8))


@pytest.mark.parametrize("function", [*LEAKY, *RELU, jnp.abs, lambda x: -jnp.abs(3 * x)])
def test_the_edge_of_chaos_keeps_the_function(function):
  """Up to a factor, it is what it was; and that factor is He's."""
  act = tatnet.transform_activation(function, NET, tatnet.EOC())
  own = getattr(function, "function", function)
  x = jnp.array([-3.0, -1.5, -0.1, 0.1, 0.7, 4.0])
  plain = np.asarray(own(x), np.float64)
  gain = np.sqrt(2 / (plain[1] ** 2 / 2.25 + plain[4] ** 2 / 0.49))
  np.testing.assert_allclose(act(x), gain * plain, rtol=1e-5)
  assert act.local.q == pytest.approx(1, abs=1e-12)
  assert act.local.c_slope == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("function", [jax.nn.relu, jnp.abs, lambda x: jnp.where(x > 0, 0.1 * x, x)])
def test_local_maps(function):
  """Against a sum over an even grid of angles: the maps of homogeneous functions."""
  maps, c = tatnet.local_maps(function), 0.3
  angle = 2 * np.pi * (np.arange(200_000) + 0.5) / 200_000
  first, second = np.cos(angle), np.cos(angle - np.arccos(c))
  with jax.enable_x64(True):
    f, g = np.asarray(function(jnp.asarray(first))), np.asarray(function(jnp.asarray(second)))
  assert pytest.approx(np.mean(f * g) / np.mean(f * f), abs=1e-8) == maps.C(c)
  assert pytest.approx(2 * np.mean(f * f), abs=1e-8) == maps.Q(1.0)


@pytest.mark.parametrize("method", METHODS, ids=["DKS", "EOC", "TAT"])
def test_a_straight_line(method):
  with pytest.raises(ValueError, match=r"is the straight line 2 x \+ 1"):
    tatnet.transform_activation(lambda x: jnp.log(jnp.exp(2 * x)) + 1, NET, method)


def test_what_is_a_rectifier_near_0_only():
  """Its far kink is within reach of an input scale."""
  near = tatnet.Activation(lambda x: jnp.clip(x, 0, 30), kinks=(0, 30), name="near")
  assert tatnet.local_maps(near).Q(1.0) == pytest.approx(0.5)
  assert tatnet.local_maps(near).Q(1e4) < 0.1 * 1e4
