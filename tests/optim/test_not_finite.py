"""Factors and inverses that are not finite are left out, and counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_factors, random_like

from tatnet import optim
from tatnet.optim.symmetric import average_of, inverse_of

PARAMS = {
  "dense": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
  "norm": {"scale": jnp.zeros(2)},
  "other": {"w": jnp.zeros((2, 2))},
}
GRADIENTS = random_like(PARAMS, np.random.default_rng(0))
GOOD = [random_factors(PARAMS, np.random.default_rng(seed)) for seed in (1, 2, 3)]


@functools.cache
def optimizer_and_update(**options):
  optimizer = optim.scale_by_kfac(1e-2, **options)
  return optimizer, quick_jit(lambda s, f: optimizer.update(GRADIENTS, s, factors=f))


def run(factors, **options):
  """Updates and states for each of the factors."""
  optimizer, update = optimizer_and_update(**({"burn_in": 0, "inverse_every": 1} | options))
  state, updates, states = optimizer.init(PARAMS), [], []
  for f in factors:
    step, state = update(state, f)
    updates.append(step)
    states.append(state)
  return updates, states


def with_entry(factors, layer, side, value):
  """The factors with one number in them replaced."""
  matrix = factors.layers[layer][side]
  changed = matrix.at[(0,) * matrix.ndim].set(value)
  layers = {**factors.layers, layer: {**factors.layers[layer], side: changed}}
  return factors._replace(layers=layers)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("layer", "side"), [("dense", "inputs"), ("norm", "scale")])
def test_batch_that_is_not_finite_is_as_if_it_had_not_been(value, layer, side):
  bad = with_entry(GOOD[1], layer, side, value)
  updates, states = run([GOOD[0], bad, GOOD[2]])
  without_updates, without = run([GOOD[0], GOOD[2]])
  assert_equal(updates[1], updates[0])
  assert_equal(states[1].curvature, states[0].curvature)
  assert_equal(updates[2], without_updates[1])
  assert_equal(states[2].curvature, without[1].curvature)
  assert [int(s.skipped) for s in states] == [0, 1, 1]
  assert [int(s.batches) for s in states] == [1, 1, 2]
  assert [int(s.count) for s in states] == [1, 2, 3]


def test_batch_without_weight_is_not_counted_as_skipped():
  nothing = jax.tree.map(jnp.zeros_like, GOOD[0])
  _, states = run([GOOD[0], nothing])
  assert int(states[-1].skipped) == 0


def test_first_finite_batch_is_inverted_at_once():
  # Else the layers would stand still until the next turn, 50 updates later.
  bad = with_entry(GOOD[0], "dense", "outputs", np.nan)
  updates, states = run([bad, GOOD[0], GOOD[1]], inverse_every=50)
  expected, _ = run([GOOD[0], GOOD[1]], inverse_every=50)
  assert not any(u.any() for u in jax.tree.leaves(updates[0]))
  assert_equal(updates[1], expected[0])
  assert int(states[-1].skipped) == 1


@pytest.mark.parametrize("diagonal", [[-100.0] * 4, [-1.0, 100, 100, 100]])
def test_inverse_that_is_not_finite_keeps_the_last_good_ones_of_the_layer(diagonal):
  matrix = jnp.diag(jnp.array(diagonal))  # finite as a factor, but it has no Cholesky factor
  layers = {**GOOD[1].layers, "dense": {**GOOD[1].layers["dense"], "inputs": matrix}}
  _, (first, second) = run([GOOD[0], GOOD[1]._replace(layers=layers)], decay=0.0)
  old, new = first.curvature, second.curvature
  for side in ("inputs", "outputs"):
    assert_equal(inverse_of(new["dense"][side]), inverse_of(old["dense"][side]))
  np.testing.assert_allclose(average_of(new["dense"]["inputs"]), matrix)
  # Other layers are not held up.
  assert not np.array_equal(inverse_of(new["other"]["inputs"]), inverse_of(old["other"]["inputs"]))
  assert int(second.skipped) == 1


def test_good_factors_after_a_bad_inverse_are_inverted_again():
  matrix = -jnp.eye(4)
  layers = {**GOOD[1].layers, "dense": {**GOOD[1].layers["dense"], "inputs": matrix}}
  updates, states = run([GOOD[0], GOOD[1]._replace(layers=layers), GOOD[2]], decay=0.0)
  expected, _ = run([GOOD[2]], decay=0.0)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates[2], expected[0])
  assert [int(s.skipped) for s in states] == [0, 1, 1]


def test_whole_states_stay_finite():
  bad = jax.tree.map(lambda f: jnp.full_like(f, jnp.nan), GOOD[0])._replace(weight=jnp.ones(()))
  updates, states = run([bad, bad, GOOD[0], bad])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, states)))
  assert int(states[-1].skipped) == 3


@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_update_of_a_gradient_that_is_not_finite_is_left_out_momentum_included(value, momentum):
  optimizer = optim.kfac(0.1, momentum, damping=0.1, burn_in=1, weight_decay=0.1)
  params = jax.tree.map(jnp.ones_like, PARAMS)
  update = quick_jit(lambda g, s, f: optimizer.update(g, s, params, factors=f))
  bad = jax.tree.map(lambda g: g, GRADIENTS)
  bad["other"]["w"] = bad["other"]["w"].at[0, 0].set(value)
  for bad_at in (0, 2):
    state = optimizer.init(params)
    for i, factors in enumerate([*GOOD, GOOD[0]]):
      before = state
      steps, state = update(bad if i == bad_at else GRADIENTS, state, factors)
      if i in (0, bad_at):  # the burn-in, weight decay included, and the bad one
        assert not any(step.any() for step in jax.tree.leaves(steps))
      else:
        assert all(np.isfinite(step).all() for step in jax.tree.leaves(steps))
        assert all(step.any() for step in jax.tree.leaves(steps))
      if momentum is not None and i == bad_at:
        assert_equal(state[-1], before[-1])
      assert int(state[0].skipped_updates) == (i >= bad_at)
      assert bool(state[0].moves) == (i not in (0, bad_at))
