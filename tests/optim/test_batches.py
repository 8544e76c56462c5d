"""Factors of several batches, of doubled batches, and accumulated gradients."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from kfac_references import quick_jit, random_params

from tatnet import optim

NETWORK = hk.transform(
  lambda x: hk.Linear(3)(hk.LayerNorm(-1, True, True)(jnp.tanh(hk.Conv1D(4, 3)(x)).mean(axis=1)))
)
X = np.random.default_rng(0).normal(size=(8, 5, 2)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 8)


@functools.cache
def params():
  return random_params(NETWORK, X)


@functools.cache
def compiled(curvature):
  return quick_jit(
    optim.value_grad_and_factors(NETWORK, optim.SoftmaxCrossEntropy(), curvature=curvature)
  )


def evaluated(x, y, curvature="empirical", key=None):
  return compiled(curvature)(params(), x, y, key=key)


def assert_close(a, b):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


def test_mean_factors_of_two_halves_are_those_of_the_whole_batch():
  halves = [evaluated(X[:4], Y[:4]).factors, evaluated(X[4:], Y[4:]).factors]
  assert_close(optim.mean_factors(*halves), evaluated(X, Y).factors)


def test_mean_factors_with_a_batch_without_weight_counts_the_others_only():
  factors = evaluated(X, Y).factors
  nothing = jax.tree.map(jnp.zeros_like, factors)
  optimizer = optim.scale_by_kfac()
  gradients, state = jax.tree.map(jnp.zeros_like, params()), optimizer.init(params())
  update = quick_jit(lambda f: optimizer.update(gradients, state, factors=f)[1].curvature)
  assert_close(update(optim.mean_factors(factors, nothing, nothing)), update(factors))


def test_doubled_batch_changes_nothing():
  once = evaluated(X, Y)
  twice = evaluated(np.concatenate([X, X]), np.concatenate([Y, Y]))
  assert_close(twice.factors, once.factors)
  assert_close(twice.gradients, once.gradients)
  np.testing.assert_allclose(twice.loss, once.loss, rtol=1e-6)


def test_inputs_of_a_doubled_batch_are_exact_for_sampled_targets_too():
  key = jax.random.key(0)
  once = evaluated(X, Y, "fisher", key).factors.layers
  twice = evaluated(np.concatenate([X, X]), np.concatenate([Y, Y]), "fisher", key).factors.layers
  for name in ("linear", "conv1_d"):
    assert_close(twice[name]["inputs"], once[name]["inputs"])


def test_accumulated_gradients_make_the_update_of_the_whole_batch():
  first, second = evaluated(X[:4], Y[:4]), evaluated(X[4:], Y[4:])
  inner = optim.kfac(0.1, damping=0.1, burn_in=0)
  optimizer = optax.MultiSteps(inner, every_k_schedule=2)
  mean = optim.mean_factors(first.factors, second.factors)
  update = quick_jit(lambda g, state, f: optimizer.update(g, state, params(), factors=f))
  nothing, state = update(first.gradients, optimizer.init(params()), first.factors)
  assert all(not u.any() for u in jax.tree.leaves(nothing))
  updates, _ = update(second.gradients, state, mean)
  whole = evaluated(X, Y)
  expected, _ = quick_jit(lambda g, f: inner.update(g, inner.init(params()), params(), factors=f))(
    whole.gradients, whole.factors
  )
  assert_close(updates, expected)
