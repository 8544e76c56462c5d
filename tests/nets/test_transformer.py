"""Transformers: what they state is what runs and what trace reads; kernels, masks, generation."""

import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.attention import exponential_schedule
from tatnet.nets import (
  TRANSFORMER_BASELINES,
  IdentityStart,
  SoftmaxStart,
  Transformer,
  VisionTransformer,
  create,
)

SIZES = {"depth": 2, "width": 16, "heads": 2}
IDS = jax.ShapeDtypeStruct((2, 6), jnp.int32)
IMAGES = jax.ShapeDtypeStruct((2, 4, 6, 3), jnp.float32)
KINDS = {
  "decoder": (Transformer, {"context": 8}, IDS),
  "encoder": (Transformer, {"context": 8, "causal": False}, IDS),
  "vision": (VisionTransformer, {"context": 6, "patch": 2}, IMAGES),
}
BLOCKS = [{}, {"nonlinear": 1}, {"nonlinear": 1, "shortcut_weight": 0.5}]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_block = pytest.mark.parametrize("blocks", BLOCKS, ids=str)


def stated(kind, step, blocks):
  return KINDS[kind][0].topology(SIZES["depth"], step=step, **blocks)


def planned(kind, step, blocks):
  """The topology, an activation for it, and how attention starts."""
  topology = stated(kind, step, blocks)
  act = tatnet.transform_activation("tanh", topology, tatnet.DKS(1.5))
  if not step:
    return topology, act, IdentityStart()
  return topology, act, tatnet.attention_schedule(topology, act, causal=kind == "decoder")


def forward_of(kind, attention, **options):
  network, own, _ = KINDS[kind]

  def forward(x, activation):
    return network(
      **SIZES, num_classes=5, activation=activation, attention=attention, **(own | options)
    )(x)

  return forward


def traced(forward, inputs):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    topology = tatnet.trace(forward, inputs)
  return topology, {finding.kind for w in caught for finding in w.message.findings}


@every_block
@pytest.mark.parametrize("step", [0.0, 0.05, 1 / 30])
@every_kind
def test_trace_reads_what_the_network_states(kind, step, blocks):
  topology, _, attention = planned(kind, step, blocks)
  found, warned = traced(forward_of(kind, attention, **blocks), KINDS[kind][2])
  assert found == topology
  assert not warned


@every_block
@every_kind
def test_as_many_activations_run_as_are_mapped(kind, blocks):
  topology, _, attention = planned(kind, 0.05, blocks)
  calls = []

  def activation(x):
    calls.append(x.shape)
    return jnp.tanh(x)

  forward = hk.transform(lambda x: forward_of(kind, attention, **blocks)(x, activation))
  jax.eval_shape(forward.init, jax.random.key(0), KINDS[kind][2])
  assert len(calls) == topology.num_nonlinear


def test_queries_that_are_small_are_warned_of():
  _, _, attention = planned("decoder", 0.05, {})
  found, warned = traced(forward_of("decoder", attention, query_scale=0.01), IDS)
  assert found == stated("decoder", 0.05, {})
  assert warned == {"queries that do not start at zero"}


@pytest.mark.parametrize(
  ("attention", "kind"),
  [
    (exponential_schedule(2), "attention planned alone"),
    (SoftmaxStart(), "softmax attention"),
  ],
)
def test_attention_without_a_map_is_a_finding(attention, kind):
  with pytest.raises(tatnet.TopologyError) as error:
    tatnet.trace(forward_of("decoder", attention), IDS)
  assert kind in {finding.kind for finding in error.value.findings}


def test_tokens_of_a_wide_network_have_the_kernel_of_the_plan():
  network = create(
    "transformer", 40, depth=3, width=128, heads=4, context=16, expansion=1.0,
    step=0.05, method=tatnet.TAT(0.6),
  )  # fmt: skip
  ids = jnp.arange(16)[None]

  def kernels(params):
    found = []

    def record(next_f, args, kwargs, context):
      out = next_f(*args, **kwargs)
      if context.method_name == "__call__" and context.module.name == "attention":
        found.append(out[0] @ out[0].T / 128)
      return out

    with hk.intercept_methods(record):
      network.apply(params, {}, None, ids)
    return jnp.stack(found)

  draw, kernels = jax.jit(lambda key: network.init(key, ids)[0]), jax.jit(kernels)
  kernel = np.stack([kernels(draw(jax.random.key(seed))) for seed in range(6)])
  q = np.diagonal(kernel, axis1=2, axis2=3)
  cosines = kernel / np.sqrt(q[..., :, None] * q[..., None, :])
  expected = [network.options["attention"].kernel(n) for n in range(3)]
  found = cosines[..., ~np.eye(16, dtype=bool)].mean((0, 2))
  np.testing.assert_allclose(found, expected, atol=0.03)
  np.testing.assert_allclose(q.mean((0, 2)), 1, atol=0.25)


def shapes_of(name, **options):
  sizes = SIZES | ({"patch": 2, "context": 6} if name.startswith("vision") else {"context": 8})
  network = create(name, 5, **(sizes | options))
  inputs = IMAGES if name.startswith("vision") else IDS
  params, state = jax.eval_shape(network.init, jax.random.key(0), inputs)
  logits, _ = jax.eval_shape(network.apply, params, state, None, inputs)
  return network, params, logits


@pytest.mark.parametrize("baseline", ["", *TRANSFORMER_BASELINES])
@pytest.mark.parametrize("name", ["transformer", "vision_transformer"])
def test_names_and_their_baselines(name, baseline):
  network, params, logits = shapes_of(f"{name}-{baseline}" if baseline else name)
  assert logits.shape == ((2, 6, 5) if name == "transformer" else (2, 5))
  norms = [layer for layer in params if "norm" in layer]
  gains = [layer for layer, own in params.items() if "identity_gain" in own]
  assert bool(norms) == (baseline in ("prenorm", "cutskip", "cutskip_undivided", "mimetic"))
  assert len(gains) == (2 if baseline in ("shaped", "vskipinit") else 0)
  if baseline in ("", "shaped", "vskipinit"):
    assert tatnet.trace(network.forward, IMAGES if "vision" in name else IDS) == network.topology


def test_prenorm_is_an_ordinary_sum_with_normalisation():
  network = create("transformer-prenorm", 5, **SIZES, context=8)
  params, _ = network.initialize(jax.random.key(0), IDS)
  ids = jnp.array([[1, 2, 3, 4]])
  found, _ = network.apply(params, {}, None, ids)
  params = {name.removeprefix("transformer/"): own for name, own in params.items()}

  def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

  def linear(x, name):
    return x @ params[name]["w"] + params[name].get("b", 0)

  x = (params["tokens"]["embeddings"][ids] + params["positions"]["embeddings"][:4]) / jnp.sqrt(2)
  for n in (1, 2):
    q, k, v = (
      linear(norm(x), f"block_{n}/attention/{w}").reshape(1, 4, 2, 8)
      for w in ("query", "key", "value")
    )
    logits = jnp.einsum("bihd,bjhd->bhij", q, k) / jnp.sqrt(8)
    weights = jax.nn.softmax(jnp.where(jnp.tri(4, dtype=bool), logits, -jnp.inf))
    y = jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(1, 4, 16)
    x = x + linear(y, f"block_{n}/attention/output")
    x = x + linear(jax.nn.gelu(linear(norm(x), f"block_{n}/dense_1")), f"block_{n}/dense_2")
  np.testing.assert_allclose(found, linear(norm(x), "logits"), atol=1e-4)


def test_generation_from_caches_is_the_whole_sequence():
  _, act, attention = planned("decoder", 0.05, {})

  def build():
    return Transformer(**SIZES, num_classes=5, context=8, activation=act, attention=attention)

  whole = hk.transform(lambda ids: build()(ids))
  step = hk.transform(lambda ids, caches: build()(ids, caches=caches or build().empty_caches(2)))
  ids = jax.random.randint(jax.random.key(0), (2, 8), 0, 5)
  params = jax.jit(whole.init)(jax.random.key(1), ids)
  found, caches = [], None
  for start, stop in ((0, 5), (5, 6), (6, 8)):
    logits, caches = jax.jit(step.apply)(params, None, ids[:, start:stop], caches)
    found.append(logits)
  expected = jax.jit(whole.apply)(params, None, ids)
  np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_missing_tokens_change_nothing(kind):
  _, act, attention = planned(kind, 0.05, {})
  network, own, _ = KINDS[kind]
  model = hk.transform(
    lambda ids, mask=None: network(
      **SIZES, num_classes=5, activation=act, attention=attention, **own
    )(ids, mask=mask)
  )
  ids = jax.random.randint(jax.random.key(0), (1, 8), 0, 5)
  params = jax.jit(model.init)(jax.random.key(1), ids)
  apply = jax.jit(model.apply)
  expected = apply(params, None, ids[:, :5])
  found = apply(params, None, ids, jnp.arange(8)[None] < 5)
  np.testing.assert_allclose(found[:, :5] if kind == "decoder" else found, expected, atol=1e-5)


TANH = tatnet.transform_activation("tanh", tatnet.chain(4), tatnet.DKS())
MODEL = {**SIZES, "num_classes": 5, "context": 8, "activation": TANH, "attention": IdentityStart()}


@pytest.mark.parametrize(
  ("options", "error", "part"),
  [
    ({"heads": 3}, ValueError, "heads=3; expected heads that divide the width"),
    ({"depth": 0}, ValueError, "depth=0"),
    ({"context": 2.5}, TypeError, "context=2.5"),
    ({"nonlinear": 3}, ValueError, "nonlinear=3"),
    ({"nonlinear": 2, "shortcut_weight": 0.5}, ValueError, "Expected nonlinear=1"),
    ({"normalization": "layer"}, ValueError, "Expected nonlinear=1"),
    ({"normalization": "batch", "nonlinear": 1}, ValueError, "None or 'layer'"),
    ({"shortcut_weight": 1.0, "nonlinear": 1}, ValueError, "shortcut_weight=1.0"),
    ({"activation": "tanh"}, TypeError, "activation='tanh'"),
    ({"attention": exponential_schedule(2)}, ValueError, "solved for q = 1"),
    ({"attention": exponential_schedule(3), "activation": jnp.tanh}, ValueError, "3 attention layers for depth=2"),
    ({"causal": False, "attention": exponential_schedule(2), "activation": jnp.tanh}, ValueError, "causal=True"),
    ({"attention": "shaped"}, TypeError, "start='shaped'"),
    ({"vocabulary": 0}, ValueError, "vocabulary=0"),
  ],
)  # fmt: skip
def test_networks_that_do_not_exist(options, error, part):
  model = hk.transform(lambda ids: Transformer(**(MODEL | options))(ids))
  with pytest.raises(error, match=part):
    jax.eval_shape(model.init, jax.random.key(0), IDS)


@pytest.mark.parametrize(
  ("kind", "inputs", "part"),
  [
    ("decoder", jax.ShapeDtypeStruct((2, 9), jnp.int32), "9 tokens; expected at most context=8"),
    ("decoder", jax.ShapeDtypeStruct((9,), jnp.int32), r"integers \[batch, tokens\]"),
    ("decoder", jax.ShapeDtypeStruct((2, 6), jnp.float32), "float32; expected integers"),
    ("vision", jax.ShapeDtypeStruct((2, 5, 6, 3), jnp.float32), "multiples of patch=2"),
    ("vision", jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32), "3 x 3 patches; expected context=6"),
  ],
)  # fmt: skip
def test_inputs_that_do_not_fit(kind, inputs, part):
  model = hk.transform(lambda x: forward_of(kind, IdentityStart())(x, jnp.tanh))
  with pytest.raises(ValueError, match=part):
    jax.eval_shape(model.init, jax.random.key(0), inputs)


@pytest.mark.parametrize(
  ("name", "options", "error", "part"),
  [
    ("transformer", {"step": 1.5}, ValueError, "step=1.5"),
    ("transformer", {"depth": None}, TypeError, "depth=None"),
    ("transformer-shaped", {"step": 0.1}, ValueError, "not planned with its layers"),
    ("transformer-bn", {}, ValueError, "-prenorm, -vanilla"),
    ("transformer", {"method": tatnet.TAT(0.01)}, ValueError, "eta"),
    ("transformer", {"activation": jnp.tanh}, ValueError, "keeps q = 1"),
    ("vision_transformer", {"causal": True, "patch": 2}, TypeError, "an encoder"),
  ],
)
def test_create_refuses(name, options, error, part):
  with pytest.raises(error, match=part):
    create(name, 5, **(SIZES | {"context": 8} | options))
