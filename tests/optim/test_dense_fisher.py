"""Factors of dense layers against the Fisher matrix, computed without them in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from kfac_references import (
  as_matrix,
  inputs_factor,
  mlp,
  mlp_inputs,
  mlp_params,
  output_jacobians,
  outputs_factor,
  quick_jit,
  shifts_like,
  tapped_mlp,
)

from tatnet import optim

SIZES = (4, 5, 3)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def problem(batch=6, sizes=SIZES):
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(batch, sizes[0])) + 0.5)
  return mlp_params(sizes), x, jnp.asarray(rng.integers(0, sizes[-1], batch))


def factors(params, x, y, loss, curvature, key=0):
  evaluate = quick_jit(optim.value_grad_and_factors(tapped_mlp, loss, curvature=curvature))
  return evaluate(params, x, y, key=jax.random.key(key)).factors.layers


def test_one_linear_layer_has_the_fisher_matrix_of_its_inputs():
  params, x, _ = problem(sizes=(4, 3))
  found = factors(params, x, jnp.zeros((6, 3)), optim.SquaredError(), "fisher")["layer_0"]
  # Of a Gaussian of variance 1: the mean of J^T J over the examples.
  flat, unravel = ravel_pytree(params)
  jacobian = jax.jacrev(lambda p, x: mlp(unravel(p), x))
  jacobians = quick_jit(jax.vmap(jacobian, (None, 0)))(flat, x)
  fisher = np.einsum("nop,noq->pq", jacobians, jacobians) / len(x)
  order = as_matrix(unravel(np.arange(len(flat), dtype=float))["layer_0"]).astype(int).reshape(-1)
  np.testing.assert_allclose(
    np.kron(found["inputs"], np.eye(3)), fisher[np.ix_(order, order)], atol=1e-14
  )


def test_gradients_of_a_gaussian_have_the_identity_as_their_moment():
  params, x, _ = problem(batch=4000, sizes=(4, 3))
  found = factors(params, x, jnp.zeros((4000, 3)), optim.SquaredError(), "fisher")["layer_0"]
  # Entries have a standard deviation of at most sqrt(2 / 4000) = 0.022.
  np.testing.assert_allclose(found["outputs"], np.eye(3), atol=0.1)


@pytest.mark.parametrize("loss", [optim.SquaredError(), optim.SoftmaxCrossEntropy()], ids=str)
def test_empirical_factors_are_moments_of_the_gradients_of_single_examples(loss):
  params, x, y = problem()
  y = jax.nn.one_hot(y, 3) * 2 if isinstance(loss, optim.SquaredError) else y

  def loss_of_one(shifts, x, y):
    return loss.per_example(mlp(params, x[None], shifts), y[None])[0]

  per_example = quick_jit(jax.vmap(jax.grad(loss_of_one), (None, 0, 0)))
  gradients = per_example(shifts_like(params), x, y)
  found = factors(params, x, y, loss, "empirical")
  for name, seen in mlp_inputs(params, x).items():
    np.testing.assert_allclose(found[name]["inputs"], inputs_factor(seen), atol=1e-14)
    expected = outputs_factor(np.asarray(gradients[name])[:, None])
    np.testing.assert_allclose(found[name]["outputs"], expected, atol=1e-14)


def test_for_one_example_the_kronecker_product_is_the_block_of_the_fisher_matrix():
  params, x, y = problem(batch=1)
  found = factors(params, x, y, optim.SoftmaxCrossEntropy(), "empirical")

  def loss(params):
    return optim.SoftmaxCrossEntropy().per_example(mlp(params, x), y)[0]

  for name, gradient in quick_jit(jax.grad(loss))(params).items():
    flat = as_matrix(gradient).reshape(-1)
    product = np.kron(found[name]["inputs"], found[name]["outputs"])
    np.testing.assert_allclose(product, np.outer(flat, flat), atol=1e-14)


def expected_outputs(params, x):
  """Mean of ``J^T (diag(p) - p p^T) J`` over the examples, for every layer."""
  p = np.exp(np.asarray(mlp(params, x)))
  p /= p.sum(-1, keepdims=True)
  hessians = np.einsum("ni,ij->nij", p, np.eye(p.shape[-1])) - np.einsum("ni,nj->nij", p, p)
  return {
    name: np.einsum("noi,nop,npj->ij", j, hessians, j) / len(x)
    for name, j in output_jacobians(params, x).items()
  }


@pytest.mark.parametrize("curvature", ["fisher", "gauss-newton"])
def test_sampled_factors_converge_to_the_expected_ones(curvature):
  params, x, y = problem()
  evaluate = optim.value_grad_and_factors(
    tapped_mlp, optim.SoftmaxCrossEntropy(), curvature=curvature
  )

  @quick_jit
  def sampled(keys):
    return jax.vmap(lambda key: evaluate(params, x, y, key=key).factors.layers)(keys)

  samples = sampled(jax.random.split(jax.random.key(1), 4096))
  for name, expected in expected_outputs(params, x).items():
    errors = np.asarray(samples[name]["outputs"]) - expected

    def spread(count, errors=errors):
      means = errors.reshape(-1, count, *errors.shape[1:]).mean(axis=1)
      return np.sqrt(np.mean(means**2))

    # A bias would not shrink with 16 times the samples; an unbiased mean shrinks by 4.
    assert 3 < spread(16) / spread(256) < 5.3
    assert spread(4096) < 0.06 * np.abs(expected).max()
  for name, seen in mlp_inputs(params, x).items():
    np.testing.assert_allclose(samples[name]["inputs"][0], inputs_factor(seen), atol=1e-14)


def test_loss_gradients_and_outputs_are_those_of_the_untapped_network():
  params, x, y = problem()
  loss = optim.SoftmaxCrossEntropy()
  evaluate = quick_jit(optim.value_grad_and_factors(tapped_mlp, loss))
  result = evaluate(params, x, y, key=jax.random.key(0))
  untapped = quick_jit(jax.value_and_grad(lambda p: loss.per_example(mlp(p, x), y).mean()))
  value, gradients = untapped(params)
  np.testing.assert_allclose(result.loss, value, atol=1e-15)
  np.testing.assert_allclose(result.outputs, mlp(params, x), atol=1e-15)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), result.gradients, gradients
  )
