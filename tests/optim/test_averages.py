"""What K-FAC keeps from update to update: averages, inverses, and when each of them changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import as_matrix, kronecker_update, quick_jit, random_factors, random_like

from tatnet import optim
from tatnet.optim.symmetric import average_of, inverse_of

PARAMS = {
  "dense": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
  "norm": {"scale": jnp.zeros(2), "offset": jnp.zeros(2)},
}


def batches(count, seed=0):
  rng = np.random.default_rng(seed)
  return [random_factors(PARAMS, rng) for _ in range(count)]


def run(optimizer, factors, gradients=None):
  """Updates and states of one update for each of the factors."""
  gradients = random_like(PARAMS, np.random.default_rng(9)) if gradients is None else gradients
  update = quick_jit(lambda state, f: optimizer.update(gradients, state, factors=f))
  state, updates, states = optimizer.init(PARAMS), [], []
  for f in factors:
    step, state = update(state, f)
    updates.append(step)
    states.append(state)
  return updates, states


def averages(state):
  dense, norm = state.curvature["dense"], state.curvature["norm"]
  return {"dense": jax.tree.map(average_of, dense), "norm": norm}


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_averages_are_moving_averages_corrected_for_their_start(decay):
  factors = batches(6)
  _, states = run(optim.scale_by_kfac(decay=decay), factors)
  mean = jax.tree.map(np.zeros_like, factors[0].layers)
  for n, (batch, state) in enumerate(zip(factors, states, strict=True), start=1):
    mean = jax.tree.map(
      lambda m, f: decay * m + (1 - decay) * np.asarray(f, float), mean, batch.layers
    )
    expected = jax.tree.map(lambda m, n=n: m / (1 - decay**n), mean)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), averages(state), expected
    )
    assert int(state.batches) == n


def test_constant_factors_are_their_own_average():
  factors = batches(1) * 5
  _, states = run(optim.scale_by_kfac(decay=0.95), factors)
  for state in states:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averages(state), factors[0].layers
    )


def test_factors_without_weight_leave_the_averages_alone():
  used, unused, other = batches(3)
  unused = unused._replace(weight=jnp.zeros(()))
  _, (first, second, third) = run(optim.scale_by_kfac(), [used, unused, other])
  _, (_, straight) = run(optim.scale_by_kfac(), [used, other])
  jax.tree.map(np.testing.assert_array_equal, second.curvature, first.curvature)
  assert (int(second.batches), int(second.skipped), int(second.count)) == (1, 0, 2)
  jax.tree.map(np.testing.assert_array_equal, averages(third), averages(straight))


def test_factors_are_divided_by_their_weight():
  (factors,) = batches(1)
  half = jax.tree.map(lambda f: f / 2, factors)  # the mean with a batch of weight 0
  _, (state,) = run(optim.scale_by_kfac(), [half])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averages(state), factors.layers
  )


@pytest.mark.parametrize(
  ("burn_in", "every", "expected"),
  [
    (0, 1, "111111"),
    (0, 3, "100100"),
    (2, 3, "111001"),  # all of the burn-in, the first behind it, then every third
    (3, 2, "111101"),
  ],
)
def test_factors_are_due_in_the_burn_in_and_then_periodically(burn_in, every, expected):
  optimizer = optim.scale_by_kfac(burn_in=burn_in, factors_every=every)
  _, states = run(optimizer, batches(1) * 5)
  due = [optim.factors_due(state) for state in (optimizer.init(PARAMS), *states)]
  assert [int(d) for d in due] == [int(d) for d in expected]


def test_pass_without_refresh_has_no_factors_and_the_same_gradients():
  def forward(params, taps, observer, x):
    return observer.dense(x, params["dense"]["w"], params["dense"]["b"], taps["dense"])

  params = {"dense": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}
  x, y, key = jnp.ones((4, 3)), jnp.zeros((4, 2)), jax.random.key(0)
  evaluate = optim.value_grad_and_factors(forward, optim.SquaredError())
  traced = quick_jit(lambda refresh: evaluate(params, x, y, key=key, refresh=refresh))
  fixed = [
    quick_jit(lambda r=r: evaluate(params, x, y, key=key, refresh=r))() for r in (False, True)
  ]
  for refresh, other in zip((False, True), fixed, strict=True):
    found = traced(refresh)
    assert float(found.factors.weight) == refresh
    assert all(bool(f.any()) == refresh for f in jax.tree.leaves(found.factors.layers))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, other)
  np.testing.assert_array_equal(fixed[0].gradients["dense"]["w"], fixed[1].gradients["dense"]["w"])


@pytest.mark.parametrize(
  ("burn_in", "every", "made"),
  [(0, 1, [0, 1, 2, 3, 4, 5, 6]), (0, 3, [0, 3, 6]), (2, 2, [2, 4, 6])],
)
def test_inverses_are_made_anew_on_every_so_many_updates(burn_in, every, made):
  _, states = run(optim.scale_by_kfac(burn_in=burn_in, inverse_every=every), batches(7))
  inverses = [np.zeros((4, 4)), *(inverse_of(s.curvature["dense"]["inputs"]) for s in states)]
  changed = [i for i in range(7) if not np.array_equal(inverses[i], inverses[i + 1])]
  assert changed == made


def test_burn_in_collects_factors_and_does_not_move():
  factors = batches(4)
  updates, states = run(optim.scale_by_kfac(burn_in=3, decay=0.9), factors)
  for update, state, n in zip(updates[:3], states, (1, 2, 3), strict=False):
    assert all(not u.any() for u in jax.tree.leaves(update))
    assert int(state.batches) == n
    assert not inverse_of(state.curvature["dense"]["outputs"]).any()
  assert all(u.all() for u in jax.tree.leaves(updates[3]))
  # The inverses are of the average over the burn-in, too.
  weights = 0.9 ** np.arange(3, -1, -1)
  mean = jax.tree.map(
    lambda *f: np.average(np.stack(f), axis=0, weights=weights), *(f.layers for f in factors)
  )
  gradients = random_like(PARAMS, np.random.default_rng(9))
  expected = kronecker_update(
    as_matrix(gradients["dense"]), mean["dense"]["inputs"], mean["dense"]["outputs"], 1e-3
  )
  np.testing.assert_allclose(as_matrix(updates[3]["dense"]), expected, rtol=1e-3)


def test_damping_of_a_schedule_is_that_of_the_last_inversion():
  def schedule(count):
    return 0.1 * (1.0 + count)

  (factors,) = batches(1)
  optimizer = optim.scale_by_kfac(schedule, burn_in=1, inverse_every=3)
  updates, _ = run(optimizer, [factors] * 6)
  gradients, sides = random_like(PARAMS, np.random.default_rng(9)), factors.layers["dense"]
  for i, inverted_at in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
    expected = kronecker_update(
      as_matrix(gradients["dense"]), sides["inputs"], sides["outputs"], schedule(inverted_at)
    )
    np.testing.assert_allclose(as_matrix(updates[i]["dense"]), expected, rtol=1e-4, atol=1e-5)
    # What is only divided has the same damping: else one step would have two of them.
    scale = factors.layers["norm"]["scale"] + schedule(inverted_at)
    scale = gradients["norm"]["scale"] / scale
    np.testing.assert_allclose(updates[i]["norm"]["scale"], scale, rtol=1e-5)
