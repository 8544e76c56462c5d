"""Taps change nothing: outputs, state and gradients are those of the model without them."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_params

import tatnet
from tatnet import optim

IDS = jnp.arange(24).reshape(4, 6) % 7
IMAGES = jax.random.normal(jax.random.key(5), (4, 6, 6, 2))
VECTORS = jax.random.normal(jax.random.key(6), (4, 5))


def text(ids):
  x = hk.Embed(7, 8)(ids)
  x += hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(
    *[hk.RMSNorm(-1)(x)] * 3
  )
  x = hk.LayerNorm(-1, True, True)(x)
  return hk.Linear(3)(hk.dropout(hk.next_rng_key(), 0.3, x)).mean(axis=1)


def images(x):
  x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(hk.Conv2D(4, 3, stride=2)(x), is_training=True))
  x = jax.nn.relu(hk.GroupNorm(2)(hk.Conv2D(4, 1, with_bias=False)(x)))
  hk.set_state("calls", hk.get_state("calls", [], init=jnp.zeros) + 1)
  return hk.Linear(3)(hk.InstanceNorm(True, True)(x).mean(axis=(1, 2)))


def block(x):
  return jnp.tanh(hk.Linear(5)(hk.LayerNorm(-1, True, True)(x)))


def stacked(x):
  x = hk.experimental.layer_stack(3)(block)(x)
  return hk.Linear(3)(hk.experimental.layer_stack(2, name="other_layer_stack")(hk.remat(block))(x))


def rematerialised(x):
  return hk.Linear(3)(hk.remat(block)(hk.remat(block)(x)))


def mlp(x):
  return tatnet.nets.MLP(8, 4, 3, activation=jnp.tanh)(x)


MODELS = {
  "text": (text, IDS),
  "images": (images, IMAGES),
  "stacked": (stacked, VECTORS),
  "rematerialised": (rematerialised, VECTORS),
  "nets.MLP": (mlp, VECTORS),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_with_taps_computes_what_the_model_without_them_does(name):
  forward, x = MODELS[name]
  network, loss = hk.transform_with_state(forward), optim.SoftmaxCrossEntropy()
  y, key = jnp.array([0, 1, 2, 0]), jax.random.key(1)
  params, state = random_params(network, x)

  def plain(params):
    # The key is split in two: one for the network, one for sampling.
    outputs, new_state = network.apply(params, state, jax.random.split(key)[0], x)
    return loss.per_example(outputs, y).mean(), (outputs, new_state)

  (value, (outputs, new_state)), gradients = quick_jit(jax.value_and_grad(plain, has_aux=True))(
    params
  )
  found = quick_jit(optim.value_grad_and_factors(network, loss))(params, x, y, state=state, key=key)
  expected = (value, outputs, gradients, new_state)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
    (found.loss, found.outputs, found.gradients, found.state),
    expected,
  )
  assert jax.tree.structure(found.gradients) == jax.tree.structure(params)
  assert set(found.factors.layers) == set(params)


def test_model_is_left_without_taps():
  network = hk.transform(lambda x: hk.Linear(3)(x))
  params = random_params(network, VECTORS)
  before = str(jax.make_jaxpr(network.apply)(params, None, VECTORS))
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  quick_jit(evaluate)(params, VECTORS, jnp.zeros((4, 3)), key=jax.random.key(0))
  assert str(jax.make_jaxpr(network.apply)(params, None, VECTORS)) == before
  assert set(network.init(jax.random.key(0), VECTORS)) == {"linear"}


def test_batch_normalisation_is_evaluated_outside_training_with_the_state_given():
  def forward(x, is_training):
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(3)(x), is_training)

  network = hk.transform_with_state(forward)
  params, state = random_params(network, VECTORS, True)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  y, key = jnp.zeros((4, 3)), jax.random.key(0)
  found = quick_jit(functools.partial(evaluate, is_training=False))(
    params, VECTORS, y, state=state, key=key
  )
  outputs, _ = network.apply(params, state, None, VECTORS, False)
  np.testing.assert_allclose(found.outputs, outputs, rtol=1e-5)
  assert set(found.factors.layers) == {"linear", "batch_norm"}


def test_batch_normalisation_in_a_stack_is_evaluated_outside_training_too():
  def forward(x, is_training):
    def layer(x):
      return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training)

    return hk.experimental.layer_stack(2)(layer)(x)

  network = hk.transform_with_state(forward)
  params, state = random_params(network, VECTORS, True)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  y, key = jnp.zeros((4, 5)), jax.random.key(0)
  found = quick_jit(functools.partial(evaluate, is_training=False))(
    params, VECTORS, y, state=state, key=key
  )
  outputs, _ = network.apply(params, state, None, VECTORS, False)
  np.testing.assert_allclose(found.outputs, outputs, rtol=1e-5)


def test_model_without_rng_is_called_without_one():
  network = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x)))
  params = random_params(network, VECTORS)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  found = quick_jit(evaluate)(params, VECTORS, jnp.zeros((4, 3)), key=jax.random.key(0))
  np.testing.assert_allclose(found.outputs, network.apply(params, VECTORS), rtol=1e-6)


def test_several_inputs_go_to_the_network_as_a_tuple():
  network = hk.transform(lambda x, ids: hk.Linear(3)(x) + hk.Embed(7, 3)(ids))
  inputs = (VECTORS, IDS[:, 0])
  params = random_params(network, *inputs)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  found = quick_jit(evaluate)(params, inputs, jnp.zeros((4, 3)), key=jax.random.key(0))
  np.testing.assert_allclose(found.outputs, network.apply(params, None, *inputs), rtol=1e-6)
  assert set(found.factors.layers) == {"linear", "embed"}
