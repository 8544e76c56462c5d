"""Weight, batch and layer normalisation: what each makes the network invariant to."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

IMAGES = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
close = np.testing.assert_allclose


def small(**options):
  return tatnet.nets.create("cifar_resnet8", 5, **({"activation": jnp.tanh} | options))


@pytest.fixture(scope="module", params=[1, 2], ids=["version 1", "version 2"])
def weight_normalized(request):
  network = small(normalization="weight", version=request.param, shortcut_weight=0.5)
  params, _ = network.initialize(jax.random.key(0), IMAGES)
  return request.param, jax.jit(network.apply), params


def test_directions_and_lengths_are_the_weights_at_initialisation(weight_normalized):
  version, apply, params = weight_normalized
  plain = small(version=version, shortcut_weight=0.5)
  without = {
    name: {key: leaf for key, leaf in layer.items() if key != "g"} for name, layer in params.items()
  }
  expected, _ = jax.jit(plain.apply)(without, {}, None, IMAGES)
  close(apply(params, {}, None, IMAGES)[0], expected, rtol=1e-4, atol=1e-5)


def test_lengths_are_those_of_the_weights_of_each_output(weight_normalized):
  _, _, params = weight_normalized
  for layer in params.values():
    w = np.asarray(layer["w"], np.float64)
    close(np.ravel(layer["g"]), np.sqrt(np.sum(w**2, axis=tuple(range(w.ndim - 1)))), rtol=1e-5)


def test_the_scale_of_a_direction_does_not_matter(weight_normalized):
  _, apply, params = weight_normalized
  factors = iter(np.linspace(0.2, 5, 2 * len(params)))
  scaled = {name: layer | {"w": layer["w"] * next(factors)} for name, layer in params.items()}
  close(
    apply(scaled, {}, None, IMAGES)[0], apply(params, {}, None, IMAGES)[0], rtol=1e-4, atol=1e-5
  )
  longer = {name: layer | {"g": layer["g"] * next(factors)} for name, layer in params.items()}
  assert not np.allclose(apply(longer, {}, None, IMAGES)[0], apply(params, {}, None, IMAGES)[0])


def test_gradients_are_orthogonal_to_directions(weight_normalized):
  _, apply, params = weight_normalized

  def loss(params):
    return jnp.sum(jnp.sin(apply(params, {}, None, IMAGES)[0]))

  grads = jax.jit(jax.grad(loss))(params)
  for name, layer in params.items():
    axes = tuple(range(layer["w"].ndim - 1))
    products = jnp.sum(layer["w"] * grads[name]["w"], axes)
    sizes = jnp.sqrt(jnp.sum(layer["w"] ** 2, axes) * jnp.sum(grads[name]["w"] ** 2, axes))
    assert np.all(sizes > 0)
    assert np.max(np.abs(products / sizes)) < 1e-4


@pytest.fixture(scope="module")
def batch_normalized():
  network = tatnet.nets.create("cifar_resnet8-bn", 5, shortcut="projection")
  initial = network.initialize(jax.random.key(0), IMAGES)
  return jax.jit(network.apply, static_argnums=4), *initial


def test_the_scale_of_weights_does_not_matter_to_batch_norm(batch_normalized):
  apply, params, state = batch_normalized
  # In version 1 a norm follows every convolution.
  scaled = {
    name: layer | {"w": 5 * layer["w"]} if layer.get("w", jnp.ones(1)).ndim == 4 else layer
    for name, layer in params.items()
  }
  assert sum(layer.get("w", jnp.ones(1)).ndim == 4 for layer in params.values()) == 9
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
  name = "cifar_resnet/stem_norm/~/mean_ema"
  _, once = apply(params, state, None, IMAGES, True)
  _, twice = apply(params, once, None, 2 * IMAGES, True)
  stem = jax.lax.conv_general_dilated(
    IMAGES, params["cifar_resnet/stem"]["w"], (1, 1), "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  mean = np.mean(np.asarray(stem, np.float64), (0, 1, 2))
  close(np.ravel(once[name]["average"]), mean, atol=1e-5)
  # Decay 0.9, corrected for the start at zero.
  expected = (0.9 * 0.1 * mean + 0.1 * 2 * mean) / (1 - 0.9**2)
  close(np.ravel(twice[name]["average"]), expected, atol=1e-5)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("weight", [0.0, 0.5])
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
  params, _ = network.initialize(jax.random.key(0), IMAGES)

  @jax.jit
  def run(params):
    read.clear()
    normalized.clear()
    with hk.intercept_methods(record):
      network.apply(params, {}, None, IMAGES)
    return list(read), list(normalized)

  before_activations, behind_norms = run(params)
  assert (
    len(before_activations) == tatnet.nets.CifarResNet.topology(8, **options).num_nonlinear == 7
  )
  for x in behind_norms:
    close(np.mean(x, -1), 0, atol=1e-5)
    close(np.var(x, -1), 1, atol=2e-3)
  if version == 2 or weight == 0:
    assert len(behind_norms) == 7
    jax.tree.map(close, before_activations, behind_norms)
  else:  # the sums' activations read a sum of two, one normalised branch among them
    assert len(behind_norms) == 7 + 2  # and the projections


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_no_bias_where_a_norm_removes_it(normalization):
  network = small(normalization=normalization)
  params, _ = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  assert {name for name, layer in params.items() if "b" in layer} == {"cifar_resnet/logits"}
