"""The model of a batch: losses at other parameters, and products with its curvature, by dense matrices."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from kfac_references import mlp, mlp_params, quick_jit, random_like, random_params, tapped_mlp

from tatnet import optim

LOSSES = {
  "softmax": (optim.SoftmaxCrossEntropy(0.1), np.array([0, 2, 1, 1, 0])),
  "squared": (optim.SquaredError(), np.random.default_rng(3).normal(size=(5, 3))),
  "sigmoid": (optim.SigmoidCrossEntropy(), np.random.default_rng(3).integers(0, 2, (5, 3)) * 1.0),
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def output_hessians(loss, outputs):
  """Of single examples by their outputs, from the formulas of the distributions."""
  if isinstance(loss, optim.SquaredError):
    return np.stack([np.eye(3)] * len(outputs))
  if isinstance(loss, optim.SigmoidCrossEntropy):
    p = 1 / (1 + np.exp(-outputs))
    return np.einsum("ni,ij->nij", p * (1 - p), np.eye(3))
  p = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
  return np.einsum("ni,ij->nij", p, np.eye(3)) - np.einsum("ni,nj->nij", p, p)


def dense_curvature(function, loss, params):
  """``sum of J^T H J / batch``, example by example, and how directions become its columns."""
  flat, unravel = ravel_pytree(params)
  jacobians = np.asarray(quick_jit(jax.jacrev(lambda flat: function(unravel(flat))))(flat))
  hessians = output_hessians(loss, np.asarray(function(params)))
  terms = [j.T @ h @ j for j, h in zip(jacobians, hessians, strict=True)]
  return sum(terms) / len(terms)


@pytest.mark.parametrize("name", LOSSES)
def test_products_are_those_of_the_dense_matrix(name):
  loss, targets = LOSSES[name]
  params, x = mlp_params((4, 5, 3)), np.random.default_rng(1).normal(size=(5, 4))
  directions = [random_like(params, np.random.default_rng(seed)) for seed in (5, 6, 7)]
  evaluate = optim.value_grad_and_factors(tapped_mlp, loss)

  @quick_jit
  def products(params):
    model = evaluate(params, x, targets, key=jax.random.key(0)).model
    return model.curvature_products(*directions)

  curvature = dense_curvature(lambda p: mlp(p, x), loss, params)
  flat = np.stack([ravel_pytree(direction)[0] for direction in directions])
  np.testing.assert_allclose(products(params), flat @ curvature @ flat.T, rtol=1e-10)


def network_of_all_layers():
  def forward(x):
    x = hk.Conv1D(2, 2, name="conv")(x)
    x = hk.LayerNorm(-1, True, True, name="norm")(x).mean(1)
    x = hk.experimental.layer_stack(2)(lambda x: jnp.tanh(hk.Linear(2, name="dense")(x)))(x)
    return hk.Linear(3, name="last")(hk.dropout(hk.next_rng_key(), 0.3, x))

  return hk.transform(forward)


def test_haiku_models_have_the_products_of_their_jacobians_with_the_same_dropout():
  network, x = network_of_all_layers(), np.random.default_rng(1).normal(size=(5, 4, 3))
  loss, targets = LOSSES["softmax"]
  params = random_params(network, x.astype(np.float32))
  params = jax.tree.map(lambda p: p.astype(float), params)
  direction, key = random_like(params, np.random.default_rng(5)), jax.random.key(4)
  evaluate = optim.value_grad_and_factors(network, loss)

  @quick_jit
  def found(params):
    result = evaluate(params, x, targets, key=key)
    return result.loss, result.model.loss_at(params), result.model.curvature_products(direction)

  at_params, again, product = found(params)
  np.testing.assert_allclose(again, at_params, rtol=1e-12)  # so the masks are the same
  curvature = dense_curvature(lambda p: network.apply(p, jax.random.split(key)[0], x), loss, params)
  flat = ravel_pytree(direction)[0]
  np.testing.assert_allclose(product, [[flat @ curvature @ flat]], rtol=1e-8)


def test_model_is_of_arrays_and_may_leave_its_jit():
  network = hk.transform_with_state(
    lambda x, is_training: hk.Linear(3)(hk.BatchNorm(True, True, 0.9)(x, is_training))
  )
  x, y = np.random.default_rng(1).normal(size=(5, 4)), LOSSES["softmax"][1]
  params, state = network.init(jax.random.key(0), jnp.asarray(x), True)
  evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy())

  def results(params):
    return evaluate(params, x, y, state=state, key=jax.random.key(1), is_training=True)

  inside = quick_jit(lambda p: results(p).model.loss_at(jax.tree.map(lambda q: 2 * q, p)))(params)
  outside = quick_jit(results)(params).model
  jax.tree.map(np.asarray, outside)
  found = quick_jit(lambda model, p: model.loss_at(p))(
    outside, jax.tree.map(lambda q: 2 * q, params)
  )
  np.testing.assert_allclose(found, inside, rtol=1e-12)
