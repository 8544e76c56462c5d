"""Packed pairs of symmetric matrices, and inverses of damped ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatnet.optim.inverses import Damped, damped_inverse, damped_inverses
from tatnet.optim.symmetric import average_of, inverse_of, moved, pack


def symmetric(rng, *shape):
  m = rng.normal(size=shape).astype(np.float32)
  return m + np.swapaxes(m, -1, -2)


def positive(rng, layers, n, rank=None):
  """Second moments of noise, of less than full rank where asked."""
  rows = rng.normal(size=(*layers, rank or 2 * n, n))
  return (np.swapaxes(rows, -1, -2) @ rows / rows.shape[-2]).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 4), stack=st.sampled_from([(), (1,), (3,)]), seed=st.integers(0, 2**31))
def test_packed_pairs_come_out_as_they_went_in(n, stack, seed):
  rng = np.random.default_rng(seed)
  first, second = symmetric(rng, *stack, n, n), symmetric(rng, *stack, n, n)
  packed = pack(jnp.asarray(first), jnp.asarray(second))
  assert packed.shape == (*stack, n, n + 1)
  np.testing.assert_array_equal(average_of(packed), first)
  np.testing.assert_array_equal(inverse_of(packed), second)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 3), rate=st.floats(0, 1, width=32), seed=st.integers(0, 2**31))
def test_average_moves_and_inverse_stays(n, rate, seed):
  rng = np.random.default_rng(seed)
  first, second, target = (symmetric(rng, 2, n, n) for _ in range(3))
  packed = moved(pack(jnp.asarray(first), jnp.asarray(second)), jnp.asarray(target), rate)
  np.testing.assert_array_equal(inverse_of(packed), second)
  expected = (1 - rate) * first.astype(float) + rate * target
  np.testing.assert_allclose(average_of(packed), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [(), (1,), (4,)])
@pytest.mark.parametrize("rank", [None, 2])
def test_inverses_are_those_of_numpy(layers, rank):
  matrices = positive(np.random.default_rng(0), layers, 6, rank)
  damping = np.random.default_rng(1).uniform(0.01, 1, layers)
  with jax.enable_x64(True):
    found = damped_inverse(jnp.asarray(matrices, float), jnp.asarray(damping))
  expected = np.linalg.inv(matrices.astype(float) + damping[..., None, None] * np.eye(6))
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
  np.testing.assert_array_equal(found, np.swapaxes(found, -1, -2))


def test_one_damping_serves_a_whole_stack():
  matrices = positive(np.random.default_rng(0), (3,), 4)
  found = damped_inverse(jnp.asarray(matrices), jnp.float32(0.3))
  np.testing.assert_allclose(found, np.linalg.inv(matrices + 0.3 * np.eye(4)), rtol=1e-4, atol=1e-5)


def test_matrices_spread_over_a_mesh_come_back_in_order():
  rng = np.random.default_rng(0)
  sizes = [((), 3), ((2,), 5), ((3,), 3), ((), 5), ((1,), 1)]
  matrices = [positive(rng, layers, n) for layers, n in sizes]
  dampings = [np.float32(0.1 * (i + 1)) for i in range(len(sizes))]
  requests = [
    Damped(jnp.asarray(m), jnp.asarray(d)) for m, d in zip(matrices, dampings, strict=True)
  ]
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  found = jax.jit(lambda requests: damped_inverses(requests, mesh))(requests)
  for inverse, matrix, damping in zip(found, matrices, dampings, strict=True):
    expected = np.linalg.inv(matrix + damping * np.eye(matrix.shape[-1]))
    assert inverse.shape == matrix.shape
    np.testing.assert_allclose(inverse, expected, rtol=1e-4, atol=1e-5)


def test_matrix_that_is_not_positive_has_no_finite_inverse():
  # K-FAC keeps the last good inverse then.
  found = damped_inverse(-jnp.eye(3), jnp.float32(0.5))
  assert not np.isfinite(found).any()
