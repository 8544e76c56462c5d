"""Attention that starts as planned, in the library's functions and written by hand."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.attention import planned_attention, shaped_attention
from tatnet.tracing.mixing import step_of

DEPTH, WIDTH, HEADS = 2, 16, 2
TOPOLOGY = tatnet.sequence(*[tatnet.mixing(0.05), tatnet.chain(1)] * DEPTH)
ACT = tatnet.transform_activation("tanh", TOPOLOGY, tatnet.DKS())


def parameters(queries=0.0):
  keys = jax.random.split(jax.random.key(0), 4)
  shape = (DEPTH, WIDTH, WIDTH)
  weights = {n: jax.random.normal(k, shape) / 4 for n, k in zip("kvow", keys, strict=True)}
  return {"q": jnp.full(shape, queries), "gains": jnp.ones([3, DEPTH, HEADS])} | weights


def network(attend, tokens):
  """Blocks around an attention of arrays, (queries, keys, values, layer) -> values."""

  def apply(params, x, activation):
    for n in range(DEPTH):
      q, k, v = ((x @ params[name][n]).reshape(*x.shape[:2], HEADS, -1) for name in "qkv")
      y = attend(params, q, k, v, n).reshape(x.shape)
      x = activation(y @ params["o"][n])
    return x

  return apply, jax.ShapeDtypeStruct((3, tokens, WIDTH), jnp.float32)


def read(attend, tokens=7, params=None):
  apply, inputs = network(attend, tokens)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    topology = tatnet.trace_apply(apply, params or parameters(), inputs)
  return topology, {finding.kind for w in caught for finding in w.message.findings}


def findings(attend, **options):
  with pytest.raises(tatnet.TopologyError) as error:
    read(attend, **options)
  return {finding.kind for finding in error.value.findings}


def by_library(causal):
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT, causal=causal)
  return lambda params, q, k, v, n: planned_attention(q, k, v, schedule[n])


def by_bias(causal, dtype):
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT, causal=causal, input_cosine=0.2)

  def attend(params, q, k, v, n):
    del params
    tokens = q.shape[1]
    bias = jnp.maximum(schedule.log_attention(n, tokens), -1e30).astype(dtype)
    out = jax.nn.dot_product_attention(q, k, v, bias[None, None])
    return out * schedule.row_scale(n, tokens).astype(dtype)[:, None, None]

  return attend


def by_hand(causal):
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT, causal=causal)

  def attend(params, q, k, v, n):
    del params
    tokens = q.shape[1]
    logits = jnp.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(logits + schedule.log_attention(n, tokens))
    out = jnp.einsum("bhij,bjhd->bihd", weights, v)
    return schedule.row_scale(n, tokens)[:, None, None] * out

  return attend


def by_scaled_weights(causal):
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT, causal=causal)

  def attend(params, q, k, v, n):
    del params
    tokens = q.shape[1]
    logits = jnp.einsum("bihd,bjhd->bhij", q, k) + schedule.log_attention(n, tokens)
    weights = jax.nn.softmax(logits) * schedule.row_scale(n, tokens)[:, None]
    return jnp.einsum("bhij,bjhd->bihd", weights, v)

  return attend


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
  "attend",
  [
    by_library,
    by_hand,
    by_scaled_weights,
    lambda c: by_bias(c, np.float64),
    lambda c: by_bias(c, np.float32),
  ],
  ids=["library", "by hand", "scaled weights", "bias", "bias of 32 bits"],
)
@pytest.mark.parametrize("tokens", [2, 7, 200])
def test_planned_attention_is_a_mixing_of_its_step(attend, causal, tokens):
  found, warned = read(attend(causal), tokens)
  assert found == TOPOLOGY
  assert not warned


def test_a_flax_module_with_the_function():
  nn = pytest.importorskip("flax.linen")
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT)

  class Model(nn.Module):
    activation: object

    @nn.compact
    def __call__(self, x):
      for n in range(DEPTH):
        q = nn.Dense(WIDTH, kernel_init=nn.initializers.zeros)(x)
        q, k, v = (
          y.reshape(*x.shape[:2], HEADS, -1) for y in (q, nn.Dense(WIDTH)(x), nn.Dense(WIDTH)(x))
        )
        x = planned_attention(q, k, v, schedule[n]).reshape(x.shape)
        x = self.activation(nn.Dense(WIDTH)(x))
      return x

  x = jnp.ones([2, 5, WIDTH])
  model = Model(tatnet.placeholder)
  assert tatnet.trace_apply(model.apply, model.init(jax.random.key(0), x), x) == TOPOLOGY


@pytest.mark.parametrize("rows", [3, 90, 400])
def test_steps_are_read_from_matrices(rows):
  for layer in (tatnet.attention.UniformLayer(0.3, 0.41, c) for c in (True, False)):
    assert step_of(layer.as_matrix(rows)) == pytest.approx(0.11 / 0.7, abs=1e-10)
    if layer.causal:  # without order it would be right for other cosines
      assert step_of(1.05 * layer.as_matrix(rows)) is None
  assert step_of(tatnet.attention.ExponentialLayer(0.5, 0.2).as_matrix(rows)) is None
  assert step_of(np.tril(np.ones([rows, rows])) / np.arange(1, rows + 1)[:, None]) is None
  assert step_of(np.eye(rows)) is None


def shaped(params, q, k, v, n):
  return shaped_attention(q, k, v, *params["gains"][:, n], causal=True)


def test_shaped_attention_and_value_skipinit_are_the_identity():
  assert read(shaped)[0] == tatnet.chain(DEPTH)

  def skipinit(params, q, k, v, n):
    del params, n
    return shaped_attention(q, k, v, jnp.ones(HEADS), jnp.zeros(HEADS), causal=False)

  found, warned = read(skipinit, params=parameters(queries=0.3))
  assert found == tatnet.chain(DEPTH)
  assert not warned


def shaped_by_hand(params, q, k, v, n):
  del params, n
  seen = jnp.tri(q.shape[1], dtype=bool)
  logits = jnp.where(seen, jnp.einsum("bihd,bjhd->bhij", q, k), -jnp.inf)
  centre = seen / seen.sum(1, keepdims=True)
  attention = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(logits), v)
  return v + attention - jnp.einsum("ij,bjhd->bihd", centre, v)


def test_shaped_attention_by_hand_is_the_identity():
  found, warned = read(shaped_by_hand)
  assert found == tatnet.chain(DEPTH)
  assert not warned


def test_products_with_two_matrices_on_one_line_are_two_signals():
  def attend(params, q, k, v, n):
    del params, q, k, n
    first, second = jnp.full([7, 7], 1 / 7), jnp.asarray(np.tri(7) / np.arange(1, 8)[:, None])
    return v + jnp.einsum("ij,bjhd->bihd", first, v) - jnp.einsum("ij,bjhd->bihd", second, v)

  assert findings(attend)


def test_attention_that_starts_elsewhere_is_a_finding():
  params = parameters() | {"gains": 0.5 * jnp.ones([3, DEPTH, HEADS])}
  assert findings(shaped, params=params) == {"attention that does not start as the identity"}
  plain = lambda params, q, k, v, n: jax.nn.dot_product_attention(q, k, v)  # noqa: E731
  assert findings(plain, params=parameters(0.3)) & {"softmax attention", "product of two signals"}


def test_queries_that_do_not_start_at_zero_are_warned_of():
  found, warned = read(by_library(True), params=parameters(0.01))
  assert found == TOPOLOGY
  assert warned == {"queries that do not start at zero"}


@pytest.mark.parametrize("is_masked", [True, False])
def test_attention_to_all_tokens_alike_is_an_average(is_masked):
  """What softmax with queries of zero is, without a plan."""
  _, warned = read(
    lambda params, q, k, v, n: jax.nn.dot_product_attention(q, k, v, is_causal=is_masked)
  )
  assert warned == {"averaging between nonlinear layers"}


def test_the_wrong_scale_is_a_finding():
  schedule = tatnet.attention_schedule(TOPOLOGY, ACT)

  def attend(params, q, k, v, n):
    right = by_hand(True)(params, q, k, v, n)
    return right / schedule.row_scale(n, q.shape[1])[:, None, None] ** 2

  assert findings(attend) == {"constant array"}


@pytest.mark.parametrize("is_table", [True, False])
def test_positions_that_are_added_to_tokens(is_table):
  table = np.random.default_rng(0).normal(size=(6, WIDTH))

  def apply(params, x, activation):
    positions = params["positions"] if is_table else jnp.asarray(table / np.sqrt(np.mean(table**2)))
    x = (x @ params["w"] + positions) / math.sqrt(2)
    return activation(x @ params["v"])

  shapes = {"w": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "positions": (6, WIDTH)}
  params = {name: jax.random.normal(jax.random.key(1), shape) for name, shape in shapes.items()}
  if is_table:
    params["positions"] *= 1 / jnp.sqrt(jnp.mean(params["positions"] ** 2))
  x = jax.ShapeDtypeStruct((3, 6, WIDTH), jnp.float32)
  assert tatnet.trace_apply(apply, params, x) == tatnet.chain(1)
  with pytest.raises(tatnet.TopologyError, match=r"sum not normalised|q is not 1"):
    tatnet.trace_apply(
      lambda p, x, activation: apply(p, x, lambda y: activation(1.4 * y)), params, x
    )
