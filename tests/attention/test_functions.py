"""Attention as functions of arrays: exact at the start, masks, kept keys, precision, gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.attention import (
  ExponentialLayer,
  UniformLayer,
  orthogonal_attention,
  planned_attention,
  shaped_attention,
)

BATCH, TOKENS, HEADS, SIZE = 2, 13, 2, 4
LAYERS = {
  "uniform": UniformLayer(0.1, 0.3),
  "a small step": UniformLayer(0.6, 0.601),
  "uniform, both ways": UniformLayer(0.1, 0.3, causal=False),
  "exponential": ExponentialLayer(math.inf, 0.5),
  "exponential, late": ExponentialLayer(0.1, 0.005),
  "exponential, both ways": ExponentialLayer(0.1, 0.005, causal=False),
}
MASKS = {
  "padded behind": np.arange(TOKENS) < 8,
  "padded before": np.arange(TOKENS) >= 4,
  "with holes": np.arange(TOKENS) % 3 != 1,
}
any_layer = pytest.mark.parametrize("name", LAYERS)


def arrays(seed=0, tokens=TOKENS):
  return jax.random.normal(jax.random.key(seed), (3, BATCH, tokens, HEADS, SIZE))


def by_matrix(matrix, values):
  return np.einsum("ij,bjhd->bihd", matrix, values)


@any_layer
def test_with_queries_of_zero_it_is_the_matrix_of_the_plan(name):
  _, keys, values = arrays()
  layer = LAYERS[name]
  found = planned_attention(jnp.zeros_like(keys), keys, values, layer)
  np.testing.assert_allclose(found, by_matrix(layer.as_matrix(TOKENS), values), atol=5e-6)


@any_layer
def test_in_16_bits(name):
  _, keys, values = arrays()
  layer, half = LAYERS[name], jnp.bfloat16
  found = planned_attention(*(a.astype(half) for a in (jnp.zeros_like(keys), keys, values)), layer)
  assert found.dtype == half
  np.testing.assert_allclose(
    found.astype(jnp.float32), by_matrix(layer.as_matrix(TOKENS), values), atol=0.05
  )


@any_layer
def test_with_other_queries_it_is_a_softmax_with_the_logarithms_added(name):
  queries, keys, values = arrays()
  layer = LAYERS[name]
  logits = np.einsum("bihd,bjhd->bhij", queries, keys) / math.sqrt(SIZE)
  weights = jax.nn.softmax(logits + layer.log_attention(TOKENS), axis=-1)
  expected = np.einsum("bhij,bjhd->bihd", weights, values)
  expected *= layer.row_scale(TOKENS)[:, None, None]
  found = planned_attention(queries, keys, values, layer)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "exponential, both ways"])
def test_tokens_that_are_there_are_a_sequence_of_their_own(name, mask):
  _, keys, values = arrays()
  layer, there = LAYERS[name], MASKS[mask]
  full = jnp.stack([jnp.asarray(there), jnp.ones(TOKENS, bool)])
  values = jnp.where(full[..., None, None], values, 1e6)  # what is missing may be anything
  found = planned_attention(jnp.zeros_like(keys), keys, values, layer, mask=full)
  expected = by_matrix(layer.as_matrix(there.sum()), values[:1, there])
  np.testing.assert_allclose(found[:1, there], expected, atol=5e-6)
  np.testing.assert_array_equal(found[0, ~there], 0)
  np.testing.assert_allclose(found[1:], by_matrix(layer.as_matrix(TOKENS), values[1:]), atol=5e-6)


def shaped(queries, keys, values, **options):
  one = jnp.ones(HEADS)
  return shaped_attention(queries, keys, values, one, one, one, causal=True, **options)


@pytest.mark.parametrize("causal", [True, False])
def test_shaped_attention_and_value_skipinit_start_as_the_identity(causal):
  queries, keys, values = arrays()
  one, zero = jnp.ones(HEADS), jnp.zeros(HEADS)
  found = shaped_attention(jnp.zeros_like(keys), keys, values, one, one, one, causal=causal)
  np.testing.assert_allclose(found, values, atol=1e-6)
  found = shaped_attention(queries, keys, values, one, zero, causal=causal)
  np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mask", [None, *MASKS])
def test_shaped_attention_by_its_formula(causal, mask):
  queries, keys, values = arrays()
  there = np.ones(TOKENS, bool) if mask is None else MASKS[mask]
  seen = there[None, :] & (np.tri(TOKENS, dtype=bool) if causal else True)
  seen = seen & there[:, None]
  gains = jnp.array([[0.5, 2.0], [0.3, 1.0], [0.7, 0.1]])
  full = None if mask is None else jnp.tile(there, (BATCH, 1))
  found = shaped_attention(queries, keys, values, *gains, causal=causal, mask=full)
  logits = np.einsum("bihd,bjhd->bhij", queries, keys) / math.sqrt(SIZE)
  weights = np.where(seen, np.exp(logits), 0)
  weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
  centre = seen / np.maximum(seen.sum(-1, keepdims=True), 1)
  alpha, beta, gamma = (np.asarray(gain)[:, None] for gain in gains)
  expected = alpha * values + beta * np.einsum("bhij,bjhd->bihd", weights, values)
  expected -= gamma * by_matrix(centre, values)
  np.testing.assert_allclose(found[:, there], expected[:, there], atol=1e-5)
  np.testing.assert_array_equal(found[:, ~there], 0)


@pytest.mark.parametrize(
  "attend",
  [
    shaped,
    lambda *a, **k: planned_attention(*a, LAYERS["uniform"], **k),
    lambda *a, **k: planned_attention(*a, LAYERS["exponential"], **k),
  ],
  ids=["shaped", "uniform", "exponential"],
)
@pytest.mark.parametrize("mask", [None, "padded before"])
def test_causal_attention_reads_nothing_later_and_goes_on_from_kept_keys(attend, mask):
  queries, keys, values = arrays()
  options = {} if mask is None else {"mask": jnp.tile(MASKS[mask], (BATCH, 1))}
  whole = attend(queries, keys, values, **options)
  later = jnp.arange(TOKENS)[:, None, None] > 6
  changed = attend(queries, keys + later, values + later, **options)
  np.testing.assert_allclose(changed[:, :7], whole[:, :7], atol=1e-6)
  assert np.abs(changed[:, 7:] - whole[:, 7:]).max() > 0.1
  step = jax.jit(lambda first: attend(queries[:, 5:8], keys, values, first=first, **options))
  np.testing.assert_allclose(step(5), whole[:, 5:8], atol=1e-6)


def test_gradients_at_the_start():
  """Keys get none until queries have moved; queries and values do."""
  _, keys, values = arrays()

  def loss(queries, keys, values):
    return jnp.sum(jnp.sin(planned_attention(queries, keys, values, LAYERS["uniform"])))

  for_queries, for_keys, for_values = jax.grad(loss, (0, 1, 2))(jnp.zeros_like(keys), keys, values)
  np.testing.assert_array_equal(for_keys, 0)
  assert np.abs(for_queries).max() > 1e-3
  assert np.abs(for_values).max() > 1e-3
  _, moved, _ = jax.grad(loss, (0, 1, 2))(0.01 * keys[::-1], keys, values)
  assert np.abs(moved).max() > 1e-5


def test_masks_leave_no_nan_in_gradients():
  queries, keys, values = arrays()
  mask = jnp.tile(MASKS["padded before"], (BATCH, 1))

  def loss(values):
    return jnp.sum(planned_attention(queries, keys, values, LAYERS["uniform"], mask=mask) ** 2)

  assert np.isfinite(jax.grad(loss)(values)).all()


def test_float32_logits_of_long_sequences():
  tokens = 2048
  for layer in (UniformLayer(0.3, 0.32), ExponentialLayer(0.02, 0.005)):
    values = jax.random.normal(jax.random.key(1), (1, tokens, 1, 4))
    found = planned_attention(jnp.zeros_like(values), values, values, layer)
    expected = by_matrix(layer.as_matrix(tokens), values)
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("strength", [0.1, 1.0, 8.0])
def test_orthogonal_attention_is_orthogonal_and_an_exponential(strength):
  queries, keys, _ = arrays()
  every = jnp.broadcast_to(jnp.eye(TOKENS)[None, :, None, :], (BATCH, TOKENS, HEADS, TOKENS))
  matrix = np.asarray(orthogonal_attention(queries, keys, every, strength=strength), np.float64)
  matrix = matrix.transpose(0, 2, 1, 3)
  np.testing.assert_allclose(
    matrix @ matrix.swapaxes(-1, -2), np.broadcast_to(np.eye(TOKENS), matrix.shape), atol=2e-3
  )
  logits = np.einsum("bihd,bjhd->bhij", queries, keys).astype(np.float64)
  skew = strength / math.sqrt(SIZE) * (logits - logits.swapaxes(-1, -2))
  values, vectors = np.linalg.eigh(1j * skew)  # expm(S) = expm(-i (i S))
  expected = (vectors * np.exp(-1j * values)[..., None, :]) @ vectors.conj().swapaxes(-1, -2)
  np.testing.assert_allclose(matrix, expected.real, atol=2e-3)


def test_orthogonal_attention_keeps_the_spectrum_of_the_kernel():
  x = np.asarray(jax.random.normal(jax.random.key(0), (1, TOKENS, 1, 24)))
  before = np.linalg.eigvalsh(x[0, :, 0] @ x[0, :, 0].T)
  for seed in range(4):
    queries, keys = jax.random.normal(jax.random.key(seed), (2, 1, TOKENS, 1, 24))
    x = orthogonal_attention(queries, keys, x)
  after = np.linalg.eigvalsh(np.float64(x[0, :, 0] @ x[0, :, 0].T))
  np.testing.assert_allclose(after, before, rtol=1e-3)


def test_orthogonal_attention_leaves_missing_tokens_alone():
  queries, keys, values = arrays()
  there = MASKS["with holes"]
  found = orthogonal_attention(queries, keys, values, mask=jnp.tile(there, (BATCH, 1)))
  np.testing.assert_array_equal(found[:, ~there], values[:, ~there])
  alone = orthogonal_attention(queries[:, there], keys[:, there], values[:, there])
  np.testing.assert_allclose(found[:, there], alone, atol=1e-5)


def call(change=None, layer=None, **options):
  queries, keys, values = arrays()
  change = change or (lambda *a: a)
  return planned_attention(*change(queries, keys, values), layer or LAYERS["uniform"], **options)


@pytest.mark.parametrize(
  ("arguments", "error", "part"),
  [
    ({"change": lambda q, k, v: (q[0], k, v)}, ValueError, r"\[batch, tokens, heads, size\]"),
    ({"change": lambda q, k, v: (q, k[:, :5], v)}, ValueError, "as many tokens"),
    ({"change": lambda q, k, v: (q, k[:, :, :1], v[:, :, :1])}, ValueError, r"\(2, 13, 1, 4\)"),
    ({"change": lambda q, k, v: (q[:, :3], k, v), "layer": LAYERS["uniform, both ways"]}, ValueError, "3 reading and 13 read"),
    ({"change": lambda q, k, v: (q[:, :3], k, v), "first": 11}, ValueError, "first=11"),
    ({"layer": UniformLayer(0.2, 0.2)}, ValueError, "no token would ever attend"),
    ({"layer": 3}, TypeError, r"schedule\[0\]"),
    ({"mask": jnp.ones([BATCH, TOKENS])}, TypeError, "booleans"),
    ({"mask": jnp.ones([BATCH, TOKENS, TOKENS], bool)}, ValueError, r"\[batch, read tokens\]"),
    ({"mask": jnp.ones([BATCH, TOKENS], bool), "layer": LAYERS["exponential, both ways"]}, ValueError, "one length"),
  ],
)  # fmt: skip
def test_bad_input(arguments, error, part):
  with pytest.raises(error, match=part):
    call(**arguments)


def test_gains_of_the_wrong_shape():
  queries, keys, values = arrays()
  with pytest.raises(ValueError, match=r"one for each head, of shape \(2,\)"):
    shaped_attention(queries, keys, values, jnp.ones(3), jnp.ones(3), causal=True)
