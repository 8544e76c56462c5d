"""Attention matrices in closed form against dense algebra, and against published values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatnet.attention import (
  ExponentialLayer,
  UniformLayer,
  exponential_schedule,
  uniform_schedule,
)

LENGTHS = (1, 2, 3, 17, 256)
UNIFORM = [(0.0, 0.2), (0.2, 0.4), (0.0, 0.99), (0.9, 0.91), (0.5, 0.5)]
EXPONENTIAL = [(math.inf, 0.57), (0.57, 0.31), (0.31, 0.005), (0.2, 0.2)]


def uniform(cosine, tokens):
  return (1 - cosine) * np.eye(tokens) + cosine


def exponential(decay, tokens):
  i = np.arange(tokens)
  return np.eye(tokens) if decay == math.inf else np.exp(-decay * np.abs(i[:, None] - i))


def symmetric_root(kernel):
  """By singular values, which eigenvalues are not computed from."""
  left, sizes, right = np.linalg.svd(kernel)
  return (left * np.sqrt(sizes)) @ right


def dense(before, after, causal):
  root = np.linalg.cholesky if causal else symmetric_root
  return np.linalg.solve(root(before).T, root(after).T).T


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize(("before", "after"), UNIFORM)
def test_uniform_layers(before, after, tokens, causal):
  if not causal:
    tokens = min(tokens, 64)  # roots of large kernels take seconds
  layer = UniformLayer(before, after, causal)
  expected = dense(uniform(before, tokens), uniform(after, tokens), causal)
  tolerance = 1e-12 if causal else 1e-11  # roots of kernels of condition 1e4
  np.testing.assert_allclose(layer.as_matrix(tokens), expected, atol=tolerance)
  np.testing.assert_allclose(layer.row_scale(tokens), expected.sum(1), atol=10 * tolerance)
  np.testing.assert_allclose(layer.as_kernel(tokens), uniform(after, tokens), atol=1e-15)


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize(("before", "after"), EXPONENTIAL)
def test_causal_exponential_layers(before, after, tokens):
  layer = ExponentialLayer(before, after)
  expected = dense(exponential(before, tokens), exponential(after, tokens), causal=True)
  np.testing.assert_allclose(layer.as_matrix(tokens), expected, atol=1e-12)
  np.testing.assert_allclose(layer.row_scale(tokens), expected.sum(1), atol=1e-11)
  np.testing.assert_allclose(layer.as_kernel(tokens), exponential(after, tokens), atol=1e-15)


@pytest.mark.parametrize("tokens", [1, 2, 17, 64])
def test_symmetric_exponential_layers(tokens):
  for before, after in EXPONENTIAL:
    layer = ExponentialLayer(before, after, causal=False)
    expected = dense(exponential(before, tokens), exponential(after, tokens), causal=False)
    np.testing.assert_allclose(layer.as_matrix(tokens), expected, atol=1e-11)
    np.testing.assert_allclose(layer.row_scale(tokens), expected.sum(1), atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
  before=st.floats(0, 0.999),
  share=st.floats(0, 0.999),
  tokens=st.integers(1, 60),
  causal=st.booleans(),
)
def test_any_uniform_layer_leads_to_its_kernel_without_negative_entries(
  before, share, tokens, causal
):
  after = min(before + share * (1 - before), 1 - 1e-6)
  layer = UniformLayer(before, after, causal)
  matrix = layer.as_matrix(tokens)
  kernel = matrix @ uniform(before, tokens) @ matrix.T
  np.testing.assert_allclose(kernel, uniform(after, tokens), atol=1e-11)
  np.testing.assert_allclose(matrix.sum(1), layer.row_scale(tokens), rtol=1e-11)
  assert matrix.min() >= 0
  if causal:
    vectors = layer.vectors(tokens)
    entries = vectors.columns[None, :] - vectors.rows[:, None]
    assert np.min(np.tril(entries, -1)) >= -1e-15  # before anything is clipped


@settings(max_examples=60, deadline=None)
@given(before=st.floats(1e-3, 5), share=st.floats(1e-3, 1), tokens=st.integers(1, 60))
def test_any_causal_exponential_layer_leads_to_its_kernel(before, share, tokens):
  layer = ExponentialLayer(before, before * share)
  matrix = layer.as_matrix(tokens)
  kernel = matrix @ exponential(before, tokens) @ matrix.T
  np.testing.assert_allclose(kernel, exponential(before * share, tokens), atol=1e-9)
  np.testing.assert_allclose(matrix.sum(1), layer.row_scale(tokens), rtol=1e-10)


def test_a_kernel_that_shrinks_needs_negative_entries():
  """Why layers with a cosine that falls are refused."""
  matrix = dense(uniform(0.4, 5), uniform(0.2, 5), causal=True)
  assert matrix.min() < -0.1


@pytest.mark.parametrize("layer", [UniformLayer(0.3, 0.5), ExponentialLayer(0.5, 0.2)])
def test_shorter_sequences_are_leading_blocks(layer):
  whole, scale = layer.as_matrix(40), layer.row_scale(40)
  for tokens in (1, 2, 39):
    np.testing.assert_allclose(layer.as_matrix(tokens), whole[:tokens, :tokens], atol=1e-14)
    np.testing.assert_allclose(layer.row_scale(tokens), scale[:tokens], rtol=1e-13)


@pytest.mark.parametrize(
  "layer",
  [
    UniformLayer(0.3, 0.5),
    UniformLayer(0.0, 0.5),
    UniformLayer(0.3, 0.5, causal=False),
    ExponentialLayer(math.inf, 0.2),
    ExponentialLayer(0.5, 0.2),
    ExponentialLayer(0.5, 0.2, causal=False),
  ],
  ids=str,
)
def test_a_softmax_times_the_row_scale_is_the_matrix(layer):
  logits, tokens = layer.log_attention(24), 24
  weights = np.exp(logits - logits.max(1, keepdims=True))
  weights /= weights.sum(1, keepdims=True)
  np.testing.assert_allclose(
    layer.row_scale(tokens)[:, None] * weights, layer.as_matrix(tokens), atol=1e-13
  )
  # What two public implementations compute: each column divided by a row's sum.
  kernel = layer.as_kernel(24)
  mistaken = layer.as_matrix(tokens) / layer.row_scale(tokens)
  mistaken /= mistaken.sum(1, keepdims=True)
  mistaken *= layer.row_scale(tokens)[:, None]
  if layer.causal:
    start = (
      uniform(layer.before, 24)
      if isinstance(layer, UniformLayer)
      else exponential(layer.before, 24)
    )
    assert np.abs(mistaken @ start @ mistaken.T - kernel).max() > 1e-2


def test_entries_of_long_sequences_do_not_underflow_in_their_logarithms():
  logits = ExponentialLayer(2.0, 0.9).log_attention(2000)
  assert np.isfinite(np.tril(logits)).all()
  assert logits.min() == -np.inf
  assert logits[1999, 1] < -1700
  logits = UniformLayer(0.9, 0.95).log_attention(1000)
  assert np.isfinite(logits[np.tril_indices(1000)]).all()


DECAYS = [0.5712954, 0.31159845, 0.18977666, 0.12108992, 0.07919005, 0.05254168, 0.03517419]
DECAYS += [0.02368291, 0.01600573, 0.01084417, 0.00735936, 0.005]


def test_decays_of_the_published_schedule():
  schedule = exponential_schedule(12)
  np.testing.assert_allclose([layer.after for layer in schedule.layers], DECAYS, atol=5e-9)
  first = [1.21337792, 0.88938746, 0.7088824]
  found = [exponential_schedule(12, 0.2)[n].after for n in range(3)]
  np.testing.assert_allclose(found, first, atol=5e-9)
  for depth, diagonal in ((36, 0.937977), (12, 0.825232)):
    schedule = exponential_schedule(depth)
    for n in range(depth):
      np.testing.assert_allclose(np.diag(schedule.as_matrix(n, 9))[1:], diagonal, atol=5e-7)


def test_row_sums_of_the_published_schedule():
  schedule = exponential_schedule(4)
  expected = {
    0: [1, 1.389134, 1.711004, 1.977237, 2.197449, 2.379597],
    1: [1, 1.045958, 1.089564, 1.130938, 1.170194, 1.207441],
    3: [1, 1.003936, 1.007852, 1.011749, 1.015626, 1.019484],
  }
  for layer, sums in expected.items():
    np.testing.assert_allclose(schedule.row_scale(layer, 6), sums, atol=1e-6)
  last = schedule.as_matrix(3, 6)[5]
  np.testing.assert_allclose(last[[0, 5]], [0.433, 0.562], atol=5e-4)
  symmetric = exponential_schedule(12, causal=False, tokens=5)
  first = [1.43792985, 1.63774766, 1.69019073, 1.63774766, 1.43792985]
  np.testing.assert_allclose(symmetric.row_scale(0, 5), first, atol=5e-9)
  np.testing.assert_allclose(
    symmetric.row_scale(1, 5)[:3], [1.13631741, 1.15440746, 1.16174779], atol=5e-9
  )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("family", ["uniform", "exponential"])
def test_the_product_of_all_layers_makes_the_last_kernel(family, causal):
  if family == "uniform":
    schedule, last = uniform_schedule(12, 0.8, causal=causal), uniform(0.8, 32)
  else:
    length = None if causal else 32
    schedule = exponential_schedule(12, causal=causal, tokens=length)
    last = exponential(0.005, 32)
  product = np.eye(32)
  for n in range(12):
    product = schedule.as_matrix(n, 32) @ product
  np.testing.assert_allclose(product @ product.T, last, atol=1e-12)


def test_published_rows_of_uniform_layers():
  row = [0.2, 0.163299, 0.138013, 0.119523, 0.105409, 0.942809]
  np.testing.assert_allclose(UniformLayer(0, 0.2).as_matrix(6)[5], row, atol=1e-6)
  sums = [1, 1.179796, 1.329391, 1.457495, 1.569519, 1.669054]
  np.testing.assert_allclose(UniformLayer(0, 0.2).row_scale(6), sums, atol=1e-6)
  row = [0.174486, 0.0952, 0.063641, 0.047707, 0.0385, 0.882523]
  np.testing.assert_allclose(UniformLayer(0.2, 0.4).as_matrix(6)[5], row, atol=1e-6)
  layer = UniformLayer(0.2, 0.4, causal=False)
  np.testing.assert_allclose(layer.as_matrix(5)[1, 0], 0.0671650043, atol=1e-10)
  np.testing.assert_allclose(np.diag(layer.as_matrix(5)), 0.8660254038 + 0.0671650043, atol=1e-9)
  np.testing.assert_allclose(layer.row_scale(5), 1.2018504252, atol=1e-9)
