"""Packed pairs of symmetric matrices, and inverses of damped ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatnet.optim.inverses import Damped, damped_inverse, damped_inverses
from tatnet.optim.symmetric import average_of, inverse_of, moved, trace, with_inverse


def symmetric(rng, *shape):
  m = rng.normal(size=shape).astype(np.float32)
  return m + np.swapaxes(m, -1, -2)


def positive(rng, layers, n, rank=None):
  """Second moments of noise, of less than full rank where asked."""
  rows = rng.normal(size=(*layers, rank or 2 * n, n))
  return (np.swapaxes(rows, -1, -2) @ rows / rows.shape[-2]).astype(np.float32)


def pack(first, second=None):
  """A pair, written entry by entry; the second is of zeros if it is not given."""
  second = np.zeros_like(first) if second is None else second
  n = first.shape[-1]
  packed = np.zeros((*first.shape[:-1], n + 1), first.dtype)
  for i in range(n):
    for j in range(n + 1):
      packed[..., i, j] = first[..., i, j] if j <= i else second[..., i, j - 1]
  return jnp.asarray(packed)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 4), stack=st.sampled_from([(), (1,), (3,)]), seed=st.integers(0, 2**31))
def test_packed_pairs_come_out_as_they_went_in(n, stack, seed):
  rng = np.random.default_rng(seed)
  first, second = symmetric(rng, *stack, n, n), symmetric(rng, *stack, n, n)
  packed = pack(first, second)
  np.testing.assert_array_equal(average_of(packed), first)
  np.testing.assert_array_equal(inverse_of(packed), second)
  np.testing.assert_array_equal(with_inverse(packed, first), pack(first, first))
  total = np.linalg.eigvalsh(first.astype(float)).sum(-1)
  for matrix in (first, packed):
    np.testing.assert_allclose(trace(jnp.asarray(matrix)), total, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 3), rate=st.floats(0, 1, width=32), seed=st.integers(0, 2**31))
def test_average_moves_and_inverse_stays(n, rate, seed):
  rng = np.random.default_rng(seed)
  first, second, target = (symmetric(rng, 2, n, n) for _ in range(3))
  packed = moved(pack(first, second), jnp.asarray(target), rate)
  np.testing.assert_array_equal(inverse_of(packed), second)
  expected = (1 - rate) * first.astype(float) + rate * target
  np.testing.assert_allclose(average_of(packed), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [(), (1,), (4,)])
@pytest.mark.parametrize("rank", [None, 2])
def test_inverses_are_those_of_numpy(layers, rank):
  matrices = positive(np.random.default_rng(0), layers, 6, rank)
  damping = np.random.default_rng(1).uniform(0.01, 1, layers)
  with jax.enable_x64(True):
    found, is_finite = damped_inverse(pack(matrices.astype(float)), jnp.asarray(damping))
    inverses = inverse_of(found)
  expected = np.linalg.inv(matrices.astype(float) + damping[..., None, None] * np.eye(6))
  np.testing.assert_allclose(inverses, expected, rtol=1e-9, atol=1e-9)
  np.testing.assert_array_equal(average_of(found), matrices)
  assert is_finite.shape == layers
  assert is_finite.all()


def test_one_damping_serves_a_whole_stack():
  matrices = positive(np.random.default_rng(0), (3,), 4)
  found, _ = damped_inverse(pack(matrices), jnp.float32(0.3))
  expected = np.linalg.inv(matrices + 0.3 * np.eye(4))
  np.testing.assert_allclose(inverse_of(found), expected, rtol=1e-4, atol=1e-5)


def test_matrices_spread_over_a_mesh_come_back_in_order():
  rng = np.random.default_rng(0)
  sizes = [((), 3), ((2,), 5), ((3,), 3), ((), 5), ((1,), 1)]
  matrices = [positive(rng, layers, n) for layers, n in sizes]
  dampings = [np.float32(0.1 * (i + 1)) for i in range(len(sizes))]
  requests = [Damped(pack(m), jnp.asarray(d)) for m, d in zip(matrices, dampings, strict=True)]
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  found = jax.jit(lambda requests: damped_inverses(requests, mesh))(requests)
  for (packed, is_finite), matrix, damping in zip(found, matrices, dampings, strict=True):
    expected = np.linalg.inv(matrix + damping * np.eye(matrix.shape[-1]))
    assert is_finite.shape == matrix.shape[:-2]
    np.testing.assert_allclose(inverse_of(packed), expected, rtol=1e-4, atol=1e-5)


def test_matrix_that_is_not_positive_is_told():
  averages = np.stack([np.eye(3), -np.eye(3)]).astype(np.float32)
  found, is_finite = damped_inverse(pack(averages), jnp.float32(0.5))
  np.testing.assert_array_equal(is_finite, [True, False])
  np.testing.assert_array_equal(average_of(found), averages)
  np.testing.assert_allclose(inverse_of(found)[0], np.eye(3) / 1.5, rtol=1e-5)
