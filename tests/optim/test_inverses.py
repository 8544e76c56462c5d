"""Packed pairs of symmetric matrices, and inverses of damped ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatnet.optim.inverses import Damped, damped_inverses, spread_inverses
from tatnet.optim.symmetric import average_of, diagonal, inverse_of, moved, with_inverse


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
  expected = [[matrix[i, i] for i in range(n)] for matrix in first.reshape(-1, n, n)]
  for matrix in (first, packed):
    found = diagonal(jnp.asarray(matrix)).reshape(-1, n)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 3), rate=st.floats(0, 1, width=32), seed=st.integers(0, 2**31))
def test_average_moves_and_inverse_stays(n, rate, seed):
  rng = np.random.default_rng(seed)
  first, second, target = (symmetric(rng, 2, n, n) for _ in range(3))
  packed = moved(pack(first, second), jnp.asarray(target), rate)
  np.testing.assert_array_equal(inverse_of(packed), second)
  expected = (1 - rate) * first.astype(float) + rate * target
  np.testing.assert_allclose(average_of(packed), expected, rtol=1e-5, atol=1e-5)


def inverted(damping, **averages):
  """`damped_inverses` of averages by side, with one damping for all of them."""
  damping = jnp.asarray(damping)
  return damped_inverses({side: Damped(pack(m), damping) for side, m in averages.items()})


@pytest.mark.parametrize("layers", [(), (1,), (4,)])
@pytest.mark.parametrize("rank", [None, 2])
def test_inverses_are_those_of_numpy(layers, rank):
  rng = np.random.default_rng(0)
  sides = {"inputs": positive(rng, layers, 6, rank), "outputs": positive(rng, layers, 4, rank)}
  damping = rng.uniform(0.01, 1, layers)
  with jax.enable_x64(True):
    found, is_finite = inverted(damping, **{side: m.astype(float) for side, m in sides.items()})
    inverses = {side: inverse_of(packed) for side, packed in found.items()}
  for side, matrix in sides.items():
    expected = np.linalg.inv(
      matrix.astype(float) + damping[..., None, None] * np.eye(len(matrix.T))
    )
    np.testing.assert_allclose(inverses[side], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(average_of(found[side]), matrix)
  assert is_finite


def test_one_damping_serves_a_whole_stack():
  matrices = positive(np.random.default_rng(0), (3,), 4)
  found, _ = inverted(np.float32(0.3), inputs=matrices)
  expected = np.linalg.inv(matrices + 0.3 * np.eye(4))
  np.testing.assert_allclose(inverse_of(found["inputs"]), expected, rtol=1e-4, atol=1e-5)


def test_layers_spread_over_a_mesh_come_back_in_order():
  rng = np.random.default_rng(0)
  shapes = [((), 3, 5), ((2,), 5, 3), ((3,), 3, 5), ((), 5, 3), ((1,), 1, 1), ((), 3, None)]
  requests, references = {}, {}
  for i, (layers, inputs, outputs) in enumerate(shapes):
    damping = 0.1 * (i + 1 + np.arange(np.prod(layers, dtype=int)).reshape(layers))
    for side, n in (("inputs", inputs), ("outputs", outputs)):
      if n is not None:
        matrix = positive(rng, layers, n)
        request = Damped(pack(matrix), jnp.asarray(damping, jnp.float32))
        requests.setdefault(f"layer_{i}", {})[side] = request
        references[f"layer_{i}", side] = np.linalg.inv(
          matrix + damping[..., None, None] * np.eye(n)
        )
  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  found = jax.jit(lambda requests: spread_inverses(requests, mesh))(requests)
  assert list(found) == list(requests)
  for (name, side), expected in references.items():
    assert found[name].is_finite
    np.testing.assert_allclose(inverse_of(found[name].packed[side]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [-np.eye(3), np.diag([1.0, -1, 1]), np.diag([1.0, np.nan, 1])])
def test_layer_with_a_matrix_that_has_no_inverse_keeps_its_last_ones(bad):
  good = np.eye(3, dtype=np.float32)
  averages = {"inputs": np.stack([good, bad.astype(np.float32), good]), "outputs": [good] * 3}
  last = np.full((3, 3, 3), 7.0, np.float32)
  sides = {side: Damped(pack(np.stack(m), last), jnp.float32(0.5)) for side, m in averages.items()}
  found, is_finite = damped_inverses(sides)
  assert not is_finite
  for side, average in averages.items():
    np.testing.assert_array_equal(average_of(found[side]), average)
    for layer, expected in enumerate([good / 1.5, last[1], good / 1.5]):
      np.testing.assert_allclose(inverse_of(found[side])[layer], expected, rtol=1e-5)
