"""The step that minimises a quadratic model, and the damping rule, by brute force in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from kfac_references import random_like

from tatnet.optim.quadratic import (
  Quadratic,
  adapted_damping,
  combination,
  dot,
  inner_products,
  minimizer,
)


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def problem(seed):
  """A model along two random directions of a random positive curvature in five dimensions."""
  rng = np.random.default_rng(seed)
  root, v, gradient = rng.normal(size=(5, 5)), rng.normal(size=(2, 5)), rng.normal(size=5)
  return Quadratic(*map(jnp.asarray, (v @ gradient, v @ root @ root.T @ v.T, v @ v.T)))


def damped_value(model, damping, w):
  b, a, d = (np.asarray(part) for part in model)
  return w @ b + w @ (a + damping * d) @ w / 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fixed", [(None, None), (-0.3, None), (None, 0.9), (-0.3, 0.9)])
def test_coefficients_are_those_that_a_general_minimiser_finds(seed, fixed):
  model, damping = problem(seed), 0.1

  def full(free):
    free = iter(free)
    return np.array([next(free) if given is None else given for given in fixed])

  found = minimizer(model, damping, fixed)
  expected = fixed
  if count := fixed.count(None):
    best = scipy.optimize.minimize(
      lambda free: damped_value(model, damping, full(free)), np.zeros(count), tol=1e-12
    )
    expected = full(best.x)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_first_step_has_no_momentum():
  model = problem(0)
  only = Quadratic(model.slopes.at[1].set(0), *(m.at[1].set(0).at[:, 1].set(0) for m in model[1:]))
  rate = -model.slopes[0] / (model.curvature[0, 0] + 0.1 * model.lengths[0, 0])
  for momentum in (None, 0.9):
    np.testing.assert_allclose(minimizer(only, 0.1, (None, momentum)), [rate, 0], rtol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_directions_give_the_step_along_one(sign):
  one = problem(0)
  both = jnp.array([1.0, 2.0 * sign])
  model = Quadratic(
    one.slopes[0] * both,
    one.curvature[0, 0] * jnp.outer(both, both),
    one.lengths[0, 0] * jnp.outer(both, both),
  )
  w = minimizer(model, 0.1)
  rate = -one.slopes[0] / (one.curvature[0, 0] + 0.1 * one.lengths[0, 0])
  np.testing.assert_allclose(w @ both, rate, rtol=1e-6)


def test_directions_of_no_length_have_no_coefficients():
  zeros = Quadratic(jnp.zeros(2), jnp.zeros((2, 2)), jnp.zeros((2, 2)))
  assert not minimizer(zeros, 0.1).any()


def test_negative_curvature_does_not_turn_the_step_uphill():
  model = Quadratic(jnp.array([-1.0, 0.0]), -5 * jnp.eye(2), jnp.eye(2))
  assert minimizer(model, 0.1)[0] > 0


def test_change_is_the_loss_of_a_quadratic_function():
  rng = np.random.default_rng(0)
  h, x, v = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=(2, 4))
  h, w = h @ h.T, np.array([0.3, -0.7])
  model = Quadratic(*map(jnp.asarray, (v @ h @ x, v @ h @ v.T, v @ v.T)))
  step = w @ v
  expected = (x + step) @ h @ (x + step) / 2 - x @ h @ x / 2
  np.testing.assert_allclose(model.change(jnp.asarray(w)), expected, rtol=1e-12)


def test_products_and_combinations_are_those_of_the_flat_vectors():
  shapes = {"a": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}, "c": {"w": jnp.zeros((3, 2))}}
  trees = [random_like(shapes, np.random.default_rng(seed)) for seed in range(3)]
  flat = np.stack([np.concatenate([x.reshape(-1) for x in jax.tree.leaves(t)]) for t in trees])
  np.testing.assert_allclose(inner_products(*trees), flat @ flat.T, rtol=1e-12)
  np.testing.assert_allclose(dot(*trees[:2]), flat[0] @ flat[1], rtol=1e-12)
  both = combination(jnp.array([2.0, -3.0]), tuple(trees[:2]))
  leaves = np.concatenate([x.reshape(-1) for x in jax.tree.leaves(both)])
  np.testing.assert_allclose(leaves, 2 * flat[0] - 3 * flat[1], rtol=1e-12)


def test_damping_follows_the_ratio():
  ratios = {0.76: 0.9**5, 0.74: 1, 0.26: 1, 0.24: 0.9**-5, -3.0: 0.9**-5, np.nan: 0.9**-5}
  for ratio, factor in ratios.items():
    np.testing.assert_allclose(adapted_damping(2.0, jnp.array(ratio)), 2 * factor, rtol=1e-12)
  assert adapted_damping(1e-8, jnp.array(1.0)) == 1e-8
