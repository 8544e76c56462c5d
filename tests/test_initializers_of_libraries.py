"""The same weights in every model library."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tatnet

INIT = tatnet.ScaledUniformOrthogonal(scale=2.0)


def haiku_weight():
  network = hk.transform(lambda x: hk.Linear(6, w_init=INIT)(x))
  return network.init(jax.random.key(0), jnp.ones((1, 3)))["linear"]["w"]


def linen_weight():
  return nn.Dense(6, kernel_init=INIT).init(jax.random.key(0), jnp.ones((1, 3)))["params"]["kernel"]


def nnx_weight():
  return nnx.Linear(3, 6, kernel_init=INIT, rngs=nnx.Rngs(0)).kernel[...]


def equinox_weight():
  layer = eqx.nn.Linear(3, 6, key=jax.random.key(0))
  weight = INIT(jax.random.key(0), (3, 6)).T
  return eqx.tree_at(lambda layer: layer.weight, layer, weight).weight.T


@pytest.mark.parametrize("make", [haiku_weight, linen_weight, nnx_weight, equinox_weight])
def test_weights_are_scaled_orthogonal(make):
  w = np.asarray(make())
  # Rows are orthonormal times the scale and sqrt(outputs / inputs).
  np.testing.assert_allclose(w @ w.T, 8 * np.eye(3), atol=1e-5)


def test_convolution_of_flax_has_its_centre_tap_only():
  kernel = nn.Conv(4, (3, 3), kernel_init=INIT).init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
  kernel = np.asarray(kernel["params"]["kernel"])
  np.testing.assert_allclose(kernel[1, 1] @ kernel[1, 1].T, 8 * np.eye(2), atol=1e-5)
  assert np.count_nonzero(kernel) == np.count_nonzero(kernel[1, 1])


def test_precision_may_be_given_by_place_or_by_name():
  key = jax.random.key(0)
  assert INIT(key, (2, 2), jnp.bfloat16).dtype == jnp.bfloat16
  assert INIT(key, (2, 2), dtype=jnp.bfloat16).dtype == jnp.bfloat16
