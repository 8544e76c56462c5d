"""Weight, batch and layer normalisation: what each makes the network invariant to."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

pytestmark = pytest.mark.filterwarnings("ignore:Version 1 with shortcut_weight")

IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)
FAST_COMPILATION = {"xla_backend_optimization_level": 0}
close = np.testing.assert_allclose


def small(**options):
  return tatnet.nets.create("cifar_resnet8", 5, **({"activation": jnp.tanh} | options))


def initial(network):
  """Initial parameters and state, as NumPy arrays."""
  return jax.tree.map(np.asarray, network.initialize(jax.random.key(0), IMAGES))


@pytest.fixture(scope="module", params=[1, 2], ids=["version 1", "version 2"])
def weight_normalized(request):
  network = small(normalization="weight", version=request.param, shortcut_weight=0.5)

  @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
  def logits_and_gradients(params):
    def loss(params):
      logits = network.apply(params, {}, None, IMAGES)[0]
      return jnp.sum(jnp.sin(logits)), logits

    gradients, logits = jax.grad(loss, has_aux=True)(params)
    return logits, gradients

  return request.param, logits_and_gradients, initial(network)[0]


def test_directions_and_lengths_are_the_weights_at_initialisation(weight_normalized):
  version, run, params = weight_normalized
  plain = small(version=version, shortcut_weight=0.5)
  without = {
    name: {key: leaf for key, leaf in layer.items() if key != "g"} for name, layer in params.items()
  }
  expected, _ = jax.jit(plain.apply, compiler_options=FAST_COMPILATION)(without, {}, None, IMAGES)
  close(run(params)[0], expected, rtol=1e-4, atol=1e-5)


def test_lengths_are_those_of_the_weights_of_each_output(weight_normalized):
  _, _, params = weight_normalized
  for layer in params.values():
    w = layer["w"].astype(np.float64)
    close(np.ravel(layer["g"]), np.sqrt(np.sum(w**2, axis=tuple(range(w.ndim - 1)))), rtol=1e-5)


def test_the_scale_of_a_direction_does_not_matter(weight_normalized):
  _, run, params = weight_normalized
  factors = iter(np.linspace(0.2, 5, 2 * len(params), dtype=np.float32))
  scaled = {name: layer | {"w": layer["w"] * next(factors)} for name, layer in params.items()}
  close(run(scaled)[0], run(params)[0], rtol=1e-4, atol=1e-5)
  longer = {name: layer | {"g": layer["g"] * next(factors)} for name, layer in params.items()}
  assert not np.allclose(run(longer)[0], run(params)[0], atol=0.1)


def test_gradients_are_orthogonal_to_directions(weight_normalized):
  _, run, params = weight_normalized
  _, gradients = run(params)
  for name, layer in params.items():
    axes = tuple(range(layer["w"].ndim - 1))
    w, gradient = layer["w"], np.asarray(gradients[name]["w"])
    sizes = np.sqrt(np.sum(w**2, axes) * np.sum(gradient**2, axes))
    assert np.all(sizes > 0)
    assert np.max(np.abs(np.sum(w * gradient, axes) / sizes)) < 1e-4


@pytest.fixture(scope="module")
def batch_normalized():
  network = tatnet.nets.create("cifar_resnet8-bn", 5, shortcut="projection")
  apply = jax.jit(network.apply, static_argnums=4, compiler_options=FAST_COMPILATION)
  return apply, *initial(network)


def test_the_scale_of_weights_does_not_matter_to_batch_norm(batch_normalized):
  apply, params, state = batch_normalized
  # In version 1 a norm follows every convolution.
  convolutions = [name for name in params if np.ndim(params[name].get("w")) == 4]
  assert len(convolutions) == 1 + 6 + 2
  scaled = params | {name: {"w": 5 * params[name]["w"]} for name in convolutions}
  expected, _ = apply(params, state, None, IMAGES, True)
  close(apply(scaled, state, None, IMAGES, True)[0], expected, rtol=1e-3, atol=1e-3)


def test_batch_norm_uses_in_evaluation_what_it_saw_in_training(batch_normalized):
  apply, params, state = batch_normalized
  expected, seen = apply(params, state, None, IMAGES, True)
  # Averages of a single batch are that batch's statistics.
  found, kept = apply(params, seen, None, IMAGES, False)
  close(found, expected, rtol=1e-3, atol=1e-3)
  assert not np.allclose(apply(params, state, None, IMAGES, False)[0], expected, atol=0.1)
  jax.tree.map(np.testing.assert_array_equal, kept, seen)


def test_averages_of_batch_norm_follow_the_batches(batch_normalized):
  apply, params, state = batch_normalized
  _, once = apply(params, state, None, IMAGES, True)
  _, twice = apply(params, once, None, 2 * IMAGES, True)
  weights = params["cifar_resnet/stem"]["w"].astype(np.float64)
  padded = np.pad(IMAGES.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
  stem = np.einsum("bijchw,hwco->bijo", windows, weights)
  name, mean = "cifar_resnet/stem_norm/~/mean_ema", stem.mean((0, 1, 2))
  close(np.ravel(once[name]["average"]), mean, atol=1e-5)
  # Decay 0.9, corrected for the start at zero.
  expected = (0.9 * 0.1 * mean + 0.1 * 2 * mean) / (1 - 0.9**2)
  close(np.ravel(twice[name]["average"]), expected, atol=1e-5)


@pytest.mark.parametrize(("version", "weight"), [(1, 0.0), (1, 0.5), (2, 0.5)])
def test_layer_norm_stands_in_front_of_every_activation(version, weight):
  read, normalized = [], []

  def activation(x):
    read.append(x)
    return jnp.tanh(x)

  def record(next_f, args, kwargs, context):
    out = next_f(*args, **kwargs)
    if isinstance(context.module, hk.LayerNorm) and context.method_name == "__call__":
      normalized.append(out)
    return out

  options = {"version": version, "shortcut_weight": weight}
  network = small(normalization="layer", activation=activation, **options)
  shapes, _ = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  rng = np.random.default_rng(0)
  params = {  # norms as at the start, layers as they come
    name: {
      key: np.float32({"scale": 1, "offset": 0}.get(key, rng.normal(size=leaf.shape)))
      + np.zeros(leaf.shape, np.float32)
      for key, leaf in layer.items()
    }
    for name, layer in shapes.items()
  }

  @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
  def run(params):
    read.clear()  # of the initialisation
    with hk.intercept_methods(record):
      network.apply(params, {}, None, IMAGES)
    return list(read), list(normalized)

  before_activations, behind_norms = run(params)
  stated = tatnet.nets.CifarResNet.topology(8, **options).num_nonlinear
  assert len(before_activations) == stated
  for x in behind_norms:
    close(np.mean(x, -1), 0, atol=1e-4)
    close(np.var(x, -1), 1, atol=5e-3)
  if (version, weight) == (1, 0.5):
    # Activations read sums with normalised branches; projections are normalised as well.
    assert len(behind_norms) == stated + 2
  else:
    jax.tree.map(close, before_activations, behind_norms)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_no_bias_where_a_norm_removes_it(normalization):
  network = small(normalization=normalization)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  assert {name for name, layer in params.items() if "b" in layer} == {"cifar_resnet/logits"}
