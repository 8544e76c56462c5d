"""Weights whose products are chosen, against what their papers ask of the products."""

import jax
import numpy as np
import pytest

from tatnet.attention import cut_skip_weights, mimetic_weights

WIDTH, HEADS, SIZE = 96, 3, 32


def logits_of(weights, head):
  own = slice(head * SIZE, (head + 1) * SIZE)
  return np.asarray(weights.query[:, own] @ weights.key[:, own].T)


def check_approximation(product, randomness, identity, seed=0):
  """Its singular values are the largest of ``randomness Z + identity I``, and it leans on I."""
  found = np.linalg.svd(product, compute_uv=False)
  assert np.linalg.matrix_rank(product, tol=1e-3) == SIZE
  rng = np.random.default_rng(seed)
  draws = [
    randomness * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH) + identity * np.eye(WIDTH)
    for _ in range(8)
  ]
  expected = np.mean([np.linalg.svd(draw, compute_uv=False)[:SIZE] for draw in draws], axis=0)
  np.testing.assert_allclose(found[:SIZE], expected, rtol=0.15)


@pytest.mark.parametrize("divided", [True, False])
def test_cut_skip(divided):
  weights = cut_skip_weights(jax.random.key(0), WIDTH, HEADS, divided=divided)
  product = np.asarray(weights.value @ weights.output) / 9
  np.testing.assert_allclose(product @ product.T, np.eye(WIDTH), atol=1e-4)
  np.testing.assert_allclose(weights.value @ weights.value.T, 9 * np.eye(WIDTH), atol=1e-3)
  for head in range(HEADS):
    product = logits_of(weights, head) / (1 if divided else np.sqrt(SIZE))
    check_approximation(product, 2.0, 0.6)


def test_both_scalings_of_cut_skip_differ_by_the_division():
  one, other = (cut_skip_weights(jax.random.key(0), WIDTH, HEADS, divided=d) for d in (True, False))
  np.testing.assert_allclose(logits_of(other, 1), np.sqrt(SIZE) * logits_of(one, 1), atol=1e-3)


def test_mimetic():
  weights = mimetic_weights(jax.random.key(0), WIDTH, HEADS)
  for head in range(HEADS):
    check_approximation(logits_of(weights, head), 0.7, 0.7)
  product = np.asarray(weights.value @ weights.output)
  assert np.trace(product) / WIDTH == pytest.approx(-0.4, abs=0.03)
  rest = product + 0.4 * np.eye(WIDTH)
  assert rest.std() * np.sqrt(WIDTH) == pytest.approx(0.4, abs=0.02)
  np.testing.assert_allclose(
    weights.value.T @ weights.value, weights.output @ weights.output.T, atol=1e-4
  )
