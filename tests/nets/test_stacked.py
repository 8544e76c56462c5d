"""Stacked blocks compute what unrolled ones do; dropout only drops while training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import create

KEY = jax.random.key(0)
DKS = {"activation": "tanh", "method": tatnet.DKS()}


def stack(tree, like):
  """Parameters or state of the unrolled network, arranged as in the stacked one."""
  stacked = {}
  for name, shapes in like.items():
    if "/block/" not in f"{name}/":
      stacked[name] = tree[name]
      continue
    # From "net/stage_2_layer_stack/block/layer_1" to "net/stage_2_block_2/layer_1" and on.
    module, stage, _, *inner = name.split("/")
    stage = "_".join(stage.split("_")[:2])
    count = len(next(iter(shapes.values())))
    last = max(
      int(other.split("/")[1].removeprefix(f"{stage}_block_"))
      for other in tree
      if other.split("/")[1].startswith(f"{stage}_block_")
    )
    blocks = range(last - count + 1, last + 1)
    layers = [tree["/".join([module, f"{stage}_block_{n}", *inner])] for n in blocks]
    stacked[name] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
  return stacked


@pytest.mark.parametrize(
  ("name", "shape", "options"),
  [
    ("mlp", (4, 9), {"width": 8, "depth": 6, "shortcut_weight": 0.5, **DKS}),
    ("mlp-bn", (4, 9), {"width": 8, "depth": 6}),
    ("mlp-skipinit", (4, 9), {"width": 8, "depth": 6}),
    ("mlp-prelu", (4, 9), {"width": 8, "depth": 6}),
    ("mlp", (4, 9), {"width": 8, "depth": 6, "normalization": "weight", **DKS}),
    ("cifar_resnet20-bn", (2, 4, 4, 3), {"shortcut": "projection"}),
  ],
)
def test_stacked_and_unrolled_networks_agree(name, shape, options):
  rng = np.random.default_rng(0)
  x = rng.normal(size=shape).astype(np.float32)
  unrolled, stacked = (create(name, 5, stacked=flag, **options) for flag in (False, True))
  shapes = jax.eval_shape(unrolled.init, KEY, x)
  params, state = jax.tree.map(
    lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes
  )
  like = jax.eval_shape(stacked.init, KEY, x)
  together = stack(params, like[0]), stack(state, like[1])
  assert jax.tree.map(jnp.shape, together) == jax.tree.map(jnp.shape, like)

  def run(network):
    return jax.jit(
      lambda p, s: network.apply(p, s, None, x, True),
      compiler_options={"xla_backend_optimization_level": 0},
    )

  expected, seen = run(unrolled)(params, state)
  found, after = run(stacked)(*together)
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), after, stack(seen, like[1])
  )


def test_a_thousand_stacked_layers_are_one_layer_to_the_compiler():
  def length(depth):
    network = create("mlp", 10, width=8, depth=depth, **DKS)
    params, state = jax.eval_shape(network.init, KEY, jnp.ones([2, 9]))
    program = jax.make_jaxpr(lambda p, s: network.apply(p, s, None, jnp.ones([2, 9])))
    return len(str(program(params, state)))

  assert length(1000) < 1.05 * length(20)


@pytest.fixture(scope="module")
def dropping():
  network = create("mlp", 10, width=200, depth=2, dropout_rate=0.25, **DKS)
  x = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
  params, state = network.initialize(KEY, x)

  @functools.partial(jax.jit, static_argnums=1)
  def run(keys, is_training):
    return jax.vmap(lambda key: network.apply(params, state, key, x, is_training)[0])(keys)

  return run


def test_dropout_keeps_the_expectation(dropping):
  keys = jax.random.split(jax.random.key(2), 4000)
  draws = np.asarray(dropping(keys, True), np.float64)
  evaluated = np.asarray(dropping(keys, False))
  np.testing.assert_array_equal(evaluated, np.tile(evaluated[:1], (4000, 1, 1)))
  error = draws.std(0) / np.sqrt(len(keys))
  assert np.max(np.abs(draws.mean(0) - evaluated[0]) / error) < 5
  # Logits have q = 1 on 200 units: dropping a quarter of them leaves noise of q = 1/3.
  assert np.mean(draws.var(0)) == pytest.approx(0.25 / 0.75, rel=0.3)


def test_dropout_needs_a_key():
  network = create("mlp", 10, width=8, depth=2, dropout_rate=0.25, **DKS)
  x = jax.ShapeDtypeStruct((3, 5), jnp.float32)
  params, state = jax.eval_shape(network.init, KEY, x)
  assert jax.eval_shape(lambda p, s, x: network.apply(p, s, None, x), params, state, x)
  with pytest.raises(ValueError, match="PRNGKey"):
    jax.eval_shape(lambda p, s, x: network.apply(p, s, None, x, True), params, state, x)


def test_dropout_stands_in_front_of_the_last_layer():
  """With ones for weights a logit counts the units that are left."""
  network = create(
    "mlp", 1, width=100, depth=2, activation=lambda x: jnp.ones_like(x), dropout_rate=0.5
  )
  x = np.ones([64, 3], np.float32)
  shapes, state = jax.eval_shape(network.init, KEY, x)
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
  params["mlp/logits"]["b"] *= 0
  logits, _ = jax.jit(network.apply, static_argnums=4)(params, state, KEY, x, True)
  counts = np.asarray(logits) / 2
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
  assert np.std(counts) == pytest.approx(5, rel=0.35)  # binomial: sqrt(100 * 0.5 * 0.5)
