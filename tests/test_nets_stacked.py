"""Stacked blocks compute what unrolled ones do; dropout only drops while training."""

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
    stacked[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
  return stacked


@pytest.mark.parametrize(
  ("name", "shape", "options"),
  [
    ("mlp", (4, 9), {"width": 8, "depth": 6, **DKS}),
    ("mlp", (4, 9), {"width": 8, "depth": 6, "shortcut_weight": 0.5, **DKS}),
    ("mlp-bn", (4, 9), {"width": 8, "depth": 6}),
    ("mlp-skipinit", (4, 9), {"width": 8, "depth": 6}),
    ("mlp-prelu", (4, 9), {"width": 8, "depth": 6}),
    ("mlp", (4, 9), {"width": 8, "depth": 6, "normalization": "weight", **DKS}),
    ("cifar_resnet20-bn", (2, 8, 8, 3), {"shortcut": "projection"}),
    ("cifar_resnet20", (2, 8, 8, 3), {"version": 2, "shortcut_weight": 0.5, **DKS}),
  ],
)
def test_stacked_and_unrolled_networks_agree(name, shape, options):
  x = jax.random.normal(jax.random.key(1), shape)
  unrolled, stacked = (create(name, 5, stacked=flag, **options) for flag in (False, True))
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(unrolled.init, KEY, x)
  params, state = jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype), shapes
  )
  like = jax.eval_shape(stacked.init, KEY, x)
  together = stack(params, like[0]), stack(state, like[1])
  assert jax.tree.map(jnp.shape, together) == jax.tree.map(jnp.shape, like)

  def run(network):
    return jax.jit(lambda p, s: network.apply(p, s, None, x, True))

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
  x = jax.random.normal(jax.random.key(1), (3, 200))
  params, state = network.initialize(KEY, x)
  return lambda key, is_training: network.apply(params, state, key, x, is_training)[0]


def test_dropout_keeps_the_expectation(dropping):
  keys = jax.random.split(jax.random.key(2), 4000)
  draws = np.asarray(jax.jit(jax.vmap(lambda key: dropping(key, True)))(keys), np.float64)
  evaluated = dropping(None, False)
  error = draws.std(0) / np.sqrt(len(keys))
  assert np.max(np.abs(draws.mean(0) - evaluated) / error) < 5
  # Logits have q = 1 on 200 units: dropping a quarter of them leaves noise of q = 1/3.
  assert np.mean(draws.var(0)) == pytest.approx(0.25 / 0.75, rel=0.3)


def test_dropout_is_off_in_evaluation(dropping):
  np.testing.assert_array_equal(dropping(jax.random.key(3), False), dropping(None, False))


def test_dropout_needs_a_key(dropping):
  with pytest.raises(ValueError, match="PRNGKey"):
    dropping(None, True)


def test_dropout_stands_in_front_of_the_last_layer():
  """With ones for weights a logit counts the units that are left."""
  network = create(
    "mlp", 1, width=100, depth=2, activation=lambda x: jnp.ones_like(x), dropout_rate=0.5
  )
  shapes, state = jax.eval_shape(network.init, KEY, jnp.ones([64, 3]))
  params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
  params["mlp/logits"]["b"] *= 0
  counts = network.apply(params, state, KEY, jnp.ones([64, 3]), True)[0] / 2
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
  assert np.std(counts) == pytest.approx(5, rel=0.35)  # binomial: sqrt(100 * 0.5 * 0.5)
