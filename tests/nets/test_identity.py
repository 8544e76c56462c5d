"""The network of "Identity Matters in Deep Learning": tiny branches, a fixed last layer."""

import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import Block, IdentityResNet

NETWORK = tatnet.nets.create("identity_resnet56", 10)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def initial(images):
  return jax.tree.map(np.asarray, NETWORK.initialize(jax.random.key(0), images))


@pytest.fixture(scope="module")
def outputs(initial, images):
  """Logits, the state after a training step's pass, and gradients of parameters and state."""

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def run(params, state):
    def loss(params, state):
      logits, after = NETWORK.apply(params, state, None, images, True)
      return jnp.sum(logits**2), (logits, after)

    gradients, (logits, after) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, state)
    return logits, after, gradients

  return run(*initial)


def branch(x, stage):
  """What a block of a stage adds to x, with the settings that the network gives its blocks."""
  network = IdentityResNet(56, 10)
  plan = next(
    run.block for run in network.plan.runs() if run.stage == stage and not run.block.changes_shape
  )
  return Block(plan, network.options)(x, False) - x


@pytest.mark.parametrize(("stage", "channels"), [(1, 64), (2, 128), (3, 256)])
def test_branches_start_at_the_papers_size(stage, channels):
  # Weights of deviation 1 / (9 c): the second moment is (1 / 9c) * 1/2 * (1 / 9c).
  model = hk.transform(lambda x: branch(x, stage))
  x = np.random.default_rng(0).normal(size=(2, 8, 8, channels)).astype(np.float32)
  added = jax.jit(lambda key: model.apply(model.init(key, x), None, x))(jax.random.key(2))
  inside = np.asarray(added)[:, 2:-2, 2:-2]  # where no window reaches over the border
  rms = math.sqrt(np.mean(np.square(inside)))
  # The hidden layer's mean is common to all locations, and random through the weights:
  # the size scatters by 3 %. Ordinary weights would make it 200 to 800 times larger.
  assert rms == pytest.approx(1 / (9 * channels * math.sqrt(2)), rel=0.1)


@pytest.mark.parametrize(("stage", "deviation"), [(1, 1.736e-3), (2, 8.68e-4), (3, 4.34e-4)])
def test_weights_of_branches_have_the_papers_deviation(stage, deviation, initial):
  weights = [
    np.ravel(layer["w"]) for name, layer in initial[0].items() if f"/stage_{stage}_" in name
  ]
  assert len(weights) == 18
  assert np.std(np.concatenate(weights)) == pytest.approx(deviation, rel=0.01)


def test_the_first_convolution_is_of_ordinary_size(initial):
  # sqrt(2 / inputs), from 432 numbers.
  assert np.std(initial[0]["identity_resnet/stem"]["w"]) == pytest.approx(
    math.sqrt(2 / 27), rel=0.15
  )


def test_it_starts_as_convolution_pooling_and_projection(initial, images, outputs):
  params, state = initial
  stem = params["identity_resnet/stem"]["w"]
  padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
  x = np.einsum("bijchw,hwco->bijo", windows, stem)
  for channels in (64, 128, 256):
    if channels > 64:
      batch, height, width, inputs = x.shape
      x = x.reshape(batch, height // 2, 2, width // 2, 2, inputs).mean((2, 4))
    new = (channels - x.shape[-1]) // 2
    x = np.pad(x, [(0, 0)] * 3 + [(new, new)])
  expected = x.mean((1, 2)) @ state["identity_resnet"]["projection"]
  error = np.linalg.norm(outputs[0] - expected) / np.linalg.norm(expected)
  # 27 branches of about 1e-3 add up, and the mean over locations takes less from them.
  assert 0 < error < 0.1


def test_the_last_layer_is_state(initial):
  params, state = initial
  assert not any("projection" in name or "logits" in name for name in params)
  assert set(state) == {"identity_resnet"}
  projection = state["identity_resnet"]["projection"]
  assert projection.shape == (256, 10)
  # Uniform with variance 1 / inputs.
  assert np.max(np.abs(projection)) <= math.sqrt(3 / 256)
  assert np.std(projection) == pytest.approx(1 / 16, rel=0.05)


def test_the_last_layer_gets_no_gradient_and_passes_one_on(outputs):
  of_params, of_state = outputs[2]
  assert not np.any(of_state["identity_resnet"]["projection"])
  assert np.any(of_params["identity_resnet/stem"]["w"])


def test_the_last_layer_stays_as_it_is(initial, outputs):
  jax.tree.map(np.testing.assert_array_equal, outputs[1], initial[1])


def test_the_last_layer_follows_from_the_key(initial, images):
  def projection(key):
    return NETWORK.init(key, images)[1]["identity_resnet"]["projection"]

  drawn = initial[1]["identity_resnet"]["projection"]
  draw = jax.jit(projection)
  np.testing.assert_allclose(draw(jax.random.key(0)), drawn, atol=1e-7)
  assert not np.allclose(draw(jax.random.key(1)), drawn)
