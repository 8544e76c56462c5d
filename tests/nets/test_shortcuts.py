"""Shortcuts that change the shape: pooling, projections, and their sum."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import Block, Options, PreActResNet, pooled
from tatnet.nets.plan import POST_ACTIVATION, PRE_ACTIVATION, BlockPlan, Layer


def matrix(size, inputs, channels, stride):
  """The modification of MacDonald et al., pooling times its stride, as a dense matrix."""

  def flat(x):
    return (stride * pooled(x.reshape(1, size, size, inputs), channels, stride)).ravel()

  return np.asarray(jax.jit(jax.vmap(flat))(np.eye(size * size * inputs, dtype=np.float32))).T


@pytest.mark.parametrize(
  ("size", "inputs", "channels", "stride"),
  [(4, 3, 6, 2), (6, 2, 5, 3), (4, 3, 7, 1)],
)
def test_all_singular_values_of_scaled_pooling_are_one(size, inputs, channels, stride):
  p = matrix(size, inputs, channels, stride)
  rank = (size // stride) ** 2 * inputs
  values = np.linalg.svd(p, compute_uv=False)
  np.testing.assert_allclose(values[:rank], 1, atol=1e-6)
  np.testing.assert_allclose(values[rank:], 0, atol=1e-6)
  projector = p @ p.T
  np.testing.assert_allclose(projector @ projector, projector, atol=1e-6)


@pytest.mark.parametrize(("channels", "front"), [(3, 0), (4, 1), (5, 1), (6, 2)])
def test_new_channels_are_zeros_on_both_sides(channels, front):
  x = images(2, 4, 4, 3)
  means = x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
  expected = np.zeros((2, 2, 2, channels))
  expected[..., front : front + 3] = means
  np.testing.assert_allclose(pooled(x, channels, 2), expected, atol=1e-6)


def drawn(model, x):
  """Random parameters, without compiling an initialisation."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def images(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


BASIC_STEP = (Layer(6, 3, 2), Layer(6, 3))


def block(order, **options):
  plan = BlockPlan(BASIC_STEP, order, changes_shape=True)
  return hk.transform(lambda x: Block(plan, Options(shortcut_weight=None, **options))(x, False))


@pytest.mark.parametrize(
  ("order", "activation", "read"),
  [
    # Version 2 pools what the branch's first convolution reads. In version 1 an
    # activation would follow the sum: the identity in its place shows the sum itself.
    (PRE_ACTIVATION, jax.nn.relu, lambda x: np.maximum(x, 0)),
    (POST_ACTIVATION, lambda x: x, lambda x: x),
  ],
  ids=["version 2", "version 1"],
)
def test_pooling_is_all_that_the_modification_adds(order, activation, read):
  x = images(2, 4, 4, 3)
  plain = block(order, activation=activation, shortcut="projection")
  modified = block(order, activation=activation, shortcut="pool+projection")
  params = drawn(plain, x)
  run = jax.jit(lambda: modified.apply(params, None, x) - plain.apply(params, None, x))
  means = read(x).reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
  expected = np.pad(2 * means, [(0, 0)] * 3 + [(2, 1)])
  np.testing.assert_allclose(run(), expected, atol=1e-4)


def test_ordinary_pooling_is_not_scaled():
  x = images(2, 4, 4, 3)
  model = block(POST_ACTIVATION, activation=lambda x: x, shortcut="pool")
  params = jax.tree.map(np.zeros_like, drawn(model, x))
  assert not any("projection" in name for name in params)
  means = x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
  expected = np.pad(means, [(0, 0)] * 3 + [(2, 1)])
  np.testing.assert_allclose(model.apply(params, None, x), expected, atol=1e-6)


def test_in_a_weighted_sum_pooling_keeps_q_of_equal_neighbours():
  x = np.broadcast_to(images(5, 1, 1, 4), (5, 4, 4, 4))
  x = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
  plan = BlockPlan(BASIC_STEP, POST_ACTIVATION, changes_shape=True)
  options = Options(activation=lambda x: x, shortcut="pool", shortcut_weight=0.6)
  model = hk.transform(lambda x: Block(plan, options)(x, False))
  params = jax.tree.map(np.zeros_like, drawn(model, x))
  q = np.mean(np.square(model.apply(params, None, x)), axis=-1)
  np.testing.assert_allclose(q, 0.36, rtol=1e-5)


@pytest.mark.parametrize("name", ["preact_resnet18-bn", "cifar_resnet20-bn"])
def test_one_initial_state_serves_the_network_and_its_modification(name):
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  plain, modified = (
    jax.eval_shape(tatnet.nets.create(name, 10, shortcut=shortcut).init, jax.random.key(0), images)
    for shortcut in ("projection", "pool+projection")
  )
  assert plain == modified
  assert any("projection" in layer for layer in plain[0])


@pytest.mark.parametrize(("depth", "affected"), [(18, 3), (34, 3), (50, 4)])
def test_shortcuts_that_the_modification_affects(depth, affected):
  """All but the first stage's, which in a bottleneck network widens the channels as well."""
  model = hk.transform(
    lambda x: PreActResNet(
      depth, 10, activation=jax.nn.relu, shortcut_weight=None, shortcut="pool+projection"
    )(x)
  )
  x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), x)
  assert sum("projection" in name for name in params) == affected
