"""The attention module: how it starts, masks, generation from a cache, precision."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.attention import ExponentialLayer, UniformLayer
from tatnet.nets import (
  CutSkipStart,
  IdentityStart,
  KeyValueCache,
  MimeticStart,
  ShapedAttention,
  SoftmaxStart,
)

BATCH, TOKENS, WIDTH, HEADS = 2, 9, 16, 4
X = jax.random.normal(jax.random.key(1), (BATCH, TOKENS, WIDTH))
STARTS = {
  "uniform": UniformLayer(0.1, 0.3),
  "exponential": ExponentialLayer(0.5, 0.2),
  "shaped": IdentityStart(),
  "skipinit": IdentityStart(centred=False),
  "softmax": SoftmaxStart(),
  "cut skip": CutSkipStart(),
  "mimetic": MimeticStart(),
}


@functools.cache
def built(start, query_scale=0.0):
  """The transformed module and its parameters."""
  causal = None if isinstance(start, UniformLayer | ExponentialLayer) else True
  model = hk.transform(
    lambda x, mask=None, cache=None: ShapedAttention(
      HEADS, start, causal=causal, query_scale=query_scale
    )(x, mask, cache)
  )
  return jax.jit(model.apply), jax.jit(model.init)(jax.random.key(0), X)


def matrix(params, name):
  return np.asarray(params[f"attention/{name}"]["w"])


@pytest.mark.parametrize("name", ["uniform", "exponential", "shaped", "skipinit"])
def test_planned_starts(name):
  apply, params = built(STARTS[name])
  start = STARTS[name]
  mixed = np.eye(TOKENS) if isinstance(start, IdentityStart) else start.as_matrix(TOKENS)
  expected = np.einsum("ij,bjd->bid", mixed, X) @ matrix(params, "value") @ matrix(params, "output")
  np.testing.assert_allclose(apply(params, None, X), expected, atol=2e-5)
  product = matrix(params, "value") @ matrix(params, "output")
  np.testing.assert_allclose(product @ product.T, np.eye(WIDTH), atol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "cut skip", "mimetic"])
def test_softmax_attention_by_its_formula(name):
  apply, params = built(STARTS[name])
  q, k, v = (
    (np.asarray(X) @ matrix(params, n)).reshape(BATCH, TOKENS, HEADS, -1)
    for n in ("query", "key", "value")
  )
  logits = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(WIDTH / HEADS)
  logits = np.where(np.tri(TOKENS, dtype=bool), logits, -np.inf)
  out = np.einsum("bhij,bjhd->bihd", jax.nn.softmax(logits), v).reshape(X.shape)
  np.testing.assert_allclose(apply(params, None, X), out @ matrix(params, "output"), atol=2e-5)


def test_cut_skip_weights_are_drawn_together():
  _, params = built(CutSkipStart())
  product = matrix(params, "value") @ matrix(params, "output") / 9
  np.testing.assert_allclose(product @ product.T, np.eye(WIDTH), atol=1e-4)


def moved(params):
  """Other numbers than at the start, as after training."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  return tree.unflatten(
    [w + 0.3 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
  )


@pytest.mark.parametrize("name", STARTS)
def test_generation_from_a_cache_is_the_whole_sequence(name):
  apply, params = built(STARTS[name])
  params = moved(params)
  whole = apply(params, None, X)
  cache = KeyValueCache.empty(BATCH, TOKENS + 3, HEADS, WIDTH // HEADS)
  found = []
  for start, stop in ((0, 4), (4, 5), (5, 6), (6, TOKENS)):
    out, cache = apply(params, None, X[:, start:stop], None, cache)
    found.append(out)
  assert int(cache.length) == TOKENS
  np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=2e-5)


@pytest.mark.parametrize("name", STARTS)
def test_tokens_that_are_missing_are_not_read(name):
  apply, params = built(STARTS[name])
  params = moved(params)
  mask = jnp.arange(TOKENS)[None, :] < jnp.array([6, TOKENS])[:, None]
  found = apply(params, None, jnp.where(mask[..., None], X, 1e3), mask)
  np.testing.assert_allclose(found[:1, :6], apply(params, None, X[:1, :6]), atol=2e-4)
  np.testing.assert_array_equal(found[0, 6:], 0)
  assert np.isfinite(found).all()


@pytest.mark.parametrize("name", STARTS)
def test_in_16_bits(name):
  apply, params = built(STARTS[name])
  half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, X))
  found = apply(half[0], None, half[1])
  assert found.dtype == jnp.bfloat16
  size = 9.0 if name == "cut skip" else 1.0
  np.testing.assert_allclose(found.astype(jnp.float32), apply(params, None, X), atol=0.1 * size)


@pytest.mark.parametrize(
  "start", [UniformLayer(0.1, 0.3), IdentityStart()], ids=["planned", "shaped"]
)
def test_keys_have_no_gradient_until_queries_move(start):
  exact = built(start)[0](built(start)[1], None, X)
  for scale in (0.0, 0.01):
    apply, params = built(start, scale)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, None, X)))))(params)  # noqa: B023
    key, query = (float(jnp.abs(grads[f"attention/{n}"]["w"]).max()) for n in ("key", "query"))
    assert query > 1e-3
    assert (key > 0) == (scale > 0)
    params = {**params, **{n: built(start)[1][n] for n in params if not n.endswith("query")}}
    np.testing.assert_allclose(apply(params, None, X), exact, atol=0.05)


@pytest.mark.parametrize(
  ("call", "error", "part"),
  [
    (lambda: ShapedAttention(3, SoftmaxStart())(X), ValueError, "heads=3; expected heads that divide"),
    (lambda: ShapedAttention(0, SoftmaxStart()), ValueError, "heads=0"),
    (lambda: ShapedAttention(2, "shaped"), TypeError, "start='shaped'"),
    (lambda: ShapedAttention(2, UniformLayer(0, 0.1), causal=False), ValueError, "leave causal out"),
    (lambda: ShapedAttention(2, SoftmaxStart(), causal="no"), TypeError, "causal='no'"),
    (lambda: ShapedAttention(2, IdentityStart(), query_scale=-1.0), ValueError, "query_scale=-1.0"),
    (lambda: ShapedAttention(2, IdentityStart())(X[0]), ValueError, r"\[batch, tokens, width\]"),
    (lambda: ShapedAttention(2, UniformLayer(0.1, 0.1))(X), ValueError, "no token would ever attend"),
    (
      lambda: ShapedAttention(2, IdentityStart())(X, None, KeyValueCache.empty(2, 9, 2, 8)),
      ValueError,
      "not causal",
    ),
    (lambda: ShapedAttention(2, IdentityStart())(X, jnp.ones([2, 8], bool)), ValueError, r"\(2, 8\)"),
  ],
)  # fmt: skip
def test_bad_input(call, error, part):
  with pytest.raises(error, match=part):
    jax.eval_shape(hk.transform(call).init, jax.random.key(0))
