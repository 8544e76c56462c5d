"""Normalisation; that its constants are those of the data is in test_arrays.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.training import data


@pytest.mark.parametrize("name", sorted(data.STATISTICS))
def test_normalize_against_float64(name):
  mean, std = data.STATISTICS[name].mean, data.STATISTICS[name].std
  images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, len(mean)), np.uint8)
  result = jax.jit(lambda x: data.normalize(x, mean, std))(images)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, (images / 255 - mean) / std, atol=2e-6)


def test_normalize_refuses_what_is_scaled_already():
  with pytest.raises(TypeError, match="dtype float32; expected uint8"):
    data.normalize(jnp.zeros((1, 2, 2, 1), jnp.float32), (0.5,), (0.5,))


@pytest.mark.parametrize(
  ("mean", "std", "message"),
  [
    ((0.5,), (0.5,), "expected one number per channel"),
    ((0.5,) * 3, (0.5,), "expected one number per channel"),
    ((0.5,) * 3, (0.5, 0.0, 0.5), "expected positive numbers"),
  ],
)
def test_normalize_checks_its_numbers(mean, std, message):
  with pytest.raises(ValueError, match=message):
    data.normalize(np.zeros((1, 2, 2, 3), np.uint8), mean, std)
