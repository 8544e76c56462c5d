"""Random networks of width 512 follow the global C map that was solved for."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

WIDTH, DEPTH, SEEDS, INPUTS = 512, 21, 4, 64
CHAIN = tatnet.chain(DEPTH)


@pytest.fixture(scope="module")
def weights():
  """Initialised layers of some networks, shape [seeds, depth, width, width]."""
  return jax.block_until_ready(draw(jax.random.key(0)))


@jax.jit
def draw(key):
  # One matrix at a time: batched factorisations may wait for each other for ever on two cores.
  # And few of them, since their threads starve each other where others compute as well.
  few, many = jax.random.split(key)
  keys = jax.random.split(few, 3)
  matrices = jax.lax.map(lambda k: tatnet.scaled_uniform_orthogonal(k, (WIDTH, WIDTH)), keys)

  def reshuffled(key):
    """Uniform as well: any of the matrices, its inputs in another order, with other signs."""
    which, order, signs = jax.random.split(key, 3)
    signs = jax.random.rademacher(signs, (WIDTH, 1), matrices.dtype)
    return signs * jax.random.permutation(order, jax.random.choice(which, matrices))

  return jax.vmap(jax.vmap(reshuffled))(jax.random.split(many, (SEEDS, DEPTH)))


def inputs_with_cosine(c):
  """Vectors of q = 1 with cosine c between any two: a common part and parts of their own."""
  x = math.sqrt(c) * np.eye(WIDTH)[0] + math.sqrt(1 - c) * np.eye(WIDTH)[1 : INPUTS + 1]
  return jnp.asarray(x * math.sqrt(WIDTH), jnp.float32)


def vanilla(act, x, layers):
  return jax.lax.scan(lambda h, w: (act(h @ w), None), x, layers)[0]


def residual(act, x, layers):
  """Blocks of two nonlinear layers beside a shortcut of weight 0.8."""

  def block(h, w):
    return 0.8 * h + 0.6 * (act(act(h @ w[0]) @ w[1]) @ w[2]), None

  return jax.lax.scan(block, x, layers.reshape(-1, 3, WIDTH, WIDTH))[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def mean_cosine_and_q(network, act, x, weights):
  """Over all pairs of inputs and all networks."""
  y = jax.vmap(lambda layers: network(act, x, layers))(weights)
  q = jnp.mean(y**2, axis=-1)
  cosines = jnp.einsum("sin,sjn->sij", y, y) / WIDTH / jnp.sqrt(q[:, :, None] * q[:, None, :])
  i, j = np.triu_indices(INPUTS, 1)
  return jnp.mean(cosines[:, i, j]), jnp.mean(q)


def measure(network, act, c, weights):
  cosine, q = mean_cosine_and_q(network, act, inputs_with_cosine(c), weights)
  return float(cosine), float(q)


def tailored():
  return tatnet.transform_activation("leaky_relu", CHAIN, tatnet.TAT(0.9))


@pytest.mark.parametrize("c", [0.0, 0.5, 0.9])
def test_tailored_relu(c, weights):
  found, q = measure(vanilla, tailored(), c, weights)
  # At this width nets of 50 layers scatter by about 0.026 about the map, and q by far more.
  assert found == pytest.approx(tatnet.cmap(CHAIN, tailored(), c), abs=0.03)
  assert q == pytest.approx(1, abs=0.4)
  if c == 0:
    assert found == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("c", [0.0, 0.5])
@pytest.mark.parametrize(
  ("name", "method"), [("softplus", tatnet.DKS(1.5)), ("tanh", tatnet.TAT(tau=0.3))]
)
def test_smooth_activations(name, method, c, weights):
  act = tatnet.transform_activation(name, CHAIN, method)
  found, q = measure(vanilla, act, c, weights)
  assert found == pytest.approx(tatnet.cmap(CHAIN, act, c), abs=0.02)
  assert q == pytest.approx(1, abs=0.15)


def test_relu_collapses(weights):
  act = tatnet.transform_activation("relu", CHAIN, tatnet.EOC())
  found, _ = measure(vanilla, act, 0.0, weights)
  assert found == pytest.approx(tatnet.cmap(CHAIN, "relu", 0.0), abs=0.015)
  assert found > 0.94
  # What still separates two inputs is a fraction of what the Tailored ReLU keeps.
  assert 1 - found < 0.6 * (1 - measure(vanilla, tailored(), 0.0, weights)[0])


def test_without_a_transformation_softplus_loses_every_angle(weights):
  found, q = measure(vanilla, tatnet.TransformedActivation("softplus"), 0.0, weights)
  assert found == pytest.approx(1, abs=1e-4)
  maps, predicted = tatnet.local_maps("softplus"), 1.0
  for _ in range(DEPTH):
    predicted = maps.Q(predicted)
  assert q == pytest.approx(predicted, rel=0.1)


def test_residual_networks(weights):
  block = tatnet.weighted_sum((0.8, tatnet.identity()), (0.6, tatnet.chain(2)))
  topology = tatnet.sequence(*[block] * (DEPTH // 3))
  act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.6))
  found, q = measure(residual, act, 0.0, weights)
  assert found == pytest.approx(0.6, abs=0.02)
  assert q == pytest.approx(1, abs=0.15)
