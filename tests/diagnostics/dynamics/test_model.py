"""The model of effective learning rates against its closed forms and the notes' tables."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tatnet.diagnostics.dynamics import (
  critical_learning_rate,
  equilibrium_rate,
  predict,
  predict_flow,
  random_walk,
)

THREE = (1e-3, 1.0, 1e3)
SEVEN = tuple(np.logspace(-3, 3, 7))


@pytest.mark.parametrize(
  ("learning_rate", "spreads"),
  [
    (1e-3, [5e5, 2.1e5, 7.0e4, 2.2e4, 7070, 2236]),
    (0.1, [990, 912, 577, 218, 70.5, 22.4]),
    (1.0, [500, 209, 70.0, 22.4, 7.14, 2.45]),
    (10.0, [990, 912, 577, 218, 70.5, 22.4]),
    (1e3, [5e5, 2.1e5, 7.0e4, 2.2e4, 7070, 2236]),
  ],
)
def test_spread_goes_to_one_as_tabled(learning_rate, spreads):
  spread = predict(THREE, learning_rate, 10**5).spread
  found = [spread[10**k] for k in range(6)]
  np.testing.assert_allclose(found, spreads, rtol=0.02)  # the table has two digits


def test_spread_after_a_million_steps():
  assert predict(THREE, 1.0, 10**6).spread[-1] == pytest.approx(1.22, abs=0.006)


def test_ratio_after_a_step_as_tabled():
  """The notes' example: 1000 to 1, learning rates relative to the critical one."""
  rates = np.array([1000.0, 1.0])
  critical = float(critical_learning_rate(jnp.asarray(rates)))
  assert critical == pytest.approx(1000**-0.5, rel=1e-6)
  for multiple, expected in {
    0.1: 90.9,
    0.5: 3.985,
    1: 1.0,
    2: 0.2509,
    10: 0.011,
    100: 0.0011,
  }.items():
    first, second = predict(rates, multiple * 1000**-0.5, 1).rates[-1]
    assert first / second == pytest.approx(expected, rel=2e-3), multiple


@pytest.mark.parametrize("multiple", [2.0, 7.0, 1e3])
def test_learning_rates_above_and_below_the_critical_one_mirror_each_other(multiple):
  above = predict(THREE, multiple, 50).spread
  below = predict(THREE, 1 / multiple, 50).spread
  np.testing.assert_allclose(above[1:], below[1:], rtol=1e-9)


def test_predicted_step_is_exact_on_a_scale_invariant_function():
  with jax.enable_x64(True):
    target = jax.random.normal(jax.random.key(0), [12])
    weights = jax.random.normal(jax.random.key(1), [12])

    def loss(w):
      unit = w / jnp.linalg.norm(w)
      return jnp.sin(unit @ target) + unit[0] ** 3

    slope = jax.grad(loss)(weights)
    assert abs(slope @ weights) < 1e-14 * jnp.linalg.norm(weights)
    rate = jnp.linalg.norm(slope) / jnp.linalg.norm(weights)
    moved = weights - 0.7 * slope
    base_norm = jnp.linalg.norm(slope) * jnp.linalg.norm(weights)  # kept constant by the model
    expected = base_norm / jnp.sum(moved**2)
    found = predict([float(rate)], 0.7, 1).rates[1, 0]
    assert found == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
  ("layers", "spreads"),
  [
    (56, [3.84e4, 97.6, 4.99, 1.34, 1.01, 1.0]),
    (110, [1.22e9, 1.7e4, 65.7, 4.1, 1.26, 1.01]),
  ],
)
def test_warm_up_brings_the_spread_down_as_tabled(layers, spreads):
  future = predict(1.2116 ** -np.arange(layers), 1e30, 9, warm_up=1.0)
  np.testing.assert_allclose(future.spread[: len(spreads)], spreads, rtol=0.03)
  doubling = future.learning_rates[1:] / future.learning_rates[:-1]
  np.testing.assert_allclose(doubling[-2:], 2, rtol=1e-4)


@pytest.mark.parametrize("layers", [5, 56, 110])
def test_warm_up_step_takes_the_spread_to_half_its_root(layers):
  """With a layer at the geometric mean: (sqrt(r) + 1/sqrt(r)) / 2."""
  rates = np.logspace(0, 6, layers + 1 - layers % 2)
  spread = predict(rates, 1e30, 1, warm_up=1.0).spread[1]
  assert spread == pytest.approx((1e3 + 1e-3) / 2, rel=1e-9)


def test_linear_ramp_helps_above_the_critical_rate_only():
  def final(rate):
    return predict(SEVEN, rate, 1000).spread[-1]

  assert final(optax.linear_schedule(0.0, 100.0, 100)) == pytest.approx(1.03, abs=0.005)
  assert final(100.0) == pytest.approx(2230, rel=0.01)
  assert final(optax.linear_schedule(0.0, 1.0, 100)) == pytest.approx(23.1, rel=0.01)
  assert final(1.0) == pytest.approx(22.4, rel=0.01)


@pytest.mark.parametrize(("momentum", "factor"), [(0.0, 1.0), (0.5, 4.0), (0.9, 100.1)])
def test_late_growth_under_momentum(momentum, factor):
  """The slope of the fourth power of the norm, over 2 lambda^2 c^2."""
  rates = predict([1.0, 30.0], 0.1, 100_000, momentum=momentum).rates
  fourth = 1 / rates**2  # c = 1
  slope = (fourth[-1] - fourth[50_000]) / 50_000 / (2 * 0.1**2)
  np.testing.assert_allclose(slope, factor, rtol=2e-3)


def test_momentum_warms_up_but_does_not_help_in_the_long_run():
  with_momentum = predict(SEVEN, 1.0, 1000, momentum=0.9).spread
  without = predict(SEVEN, 10.0, 1000).spread
  assert with_momentum[1] == pytest.approx(500, rel=1e-3)
  assert without[1] == pytest.approx(5000, rel=1e-3)
  assert with_momentum[-1] == pytest.approx(without[-1], rel=0.05)


def test_weight_decay_brings_all_layers_to_one_rate():
  applied = 0.1 * predict([0.1, 1.0, 10.0], 0.1, 20_000, weight_decay=0.01).rates[-1]
  np.testing.assert_allclose(applied, 0.0447, rtol=1e-3)
  np.testing.assert_allclose(applied, (2 * 0.1 * 0.01) ** 0.5, rtol=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_equilibrium_is_where_the_recursion_ends(momentum):
  end = predict([0.1, 10.0], 0.1, 20_000, weight_decay=0.01, momentum=momentum).rates[-1]
  np.testing.assert_allclose(end, equilibrium_rate(0.1, 0.01, momentum), rtol=1e-9)


def test_flow_is_the_limit_of_small_steps():
  rates = np.array([0.5, 2.0])
  steps = predict(rates, 1e-3, 10**5).rates[[10**3, 10**5]]
  np.testing.assert_allclose(steps, predict_flow(rates, 1e-3, [10**3, 10**5]), rtol=1e-5)


@pytest.mark.parametrize("learning_rate", [0.1, 3.0])
def test_flow_forgets_where_it_started(learning_rate):
  late = predict_flow(THREE[1:], learning_rate, np.array([1e9]))
  np.testing.assert_allclose(late, 1 / (learning_rate * np.sqrt(2e9)), rtol=1e-6)


def test_walk_without_momentum_follows_the_model():
  """Only the overlaps are random, and without momentum there are none."""
  walk = random_walk(
    jax.random.key(0), [20, 300, 50], [10.0, 1e3, 1e4], 1.0, 300, deviations=[1.0, 0.1, 2.0]
  )
  expected = predict(walk.rates[0], 1.0, 299).rates
  np.testing.assert_allclose(walk.rates, expected, rtol=2e-5)
  np.testing.assert_allclose(
    walk.gradient_norms * walk.weight_norms, [[10.0, 1e3, 1e4]] * 300, rtol=1e-5
  )


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_walk_with_momentum_follows_the_model_on_average(weight_decay):
  walk = random_walk(
    jax.random.key(1),
    [4000] * 3,
    [1.0, 1e2, 1e4],
    1.0,
    300,
    momentum=0.9,
    weight_decay=weight_decay,
  )
  expected = predict(walk.rates[0], 1.0, 299, momentum=0.9, weight_decay=weight_decay).rates
  np.testing.assert_allclose(walk.rates, expected, rtol=0.1)


def test_walk_starts_at_the_norms_of_gaussian_weights():
  walk = random_walk(jax.random.key(2), [10_000, 400], 1.0, 1e-6, 2, deviations=[0.5, 2.0])
  np.testing.assert_allclose(walk.weight_norms[0], [50.0, 40.0], rtol=0.1)


def test_walk_runs_under_jit_and_differs_by_key():
  @jax.jit
  def final(key):
    return random_walk(key, [30], 1.0, 0.5, 20, momentum=0.5).weight_norms[-1, 0]

  first, second = (float(final(jax.random.key(seed))) for seed in (0, 1))
  assert first != second
  assert first == float(final(jax.random.key(0)))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: predict([1.0, 0.0], 0.1, 3), "positive numbers"),
    (lambda: predict({"a": 1.0, "b": np.nan}, 0.1, 3), "'b': nan"),
    (lambda: predict([1.0], -0.1, 3), "learning_rate=-0.1"),
    (lambda: predict([1.0], 0.1, 0), "steps=0"),
    (lambda: predict([1.0], 0.1, 3, momentum=1.0), r"momentum=1.0; expected a number in \[0, 1\)"),
    (lambda: predict([1.0], np.ones(4), 3), r"shape \(4,\) for 3 steps"),
    (lambda: predict_flow([1.0], 0.1, [-1.0]), "times of at least 0"),
    (lambda: equilibrium_rate(0.1, 0.0), r"product in \(0, 1\]"),
    (lambda: random_walk(jax.random.key(0), [1], 1.0, 0.1, 3), "at least 2 weights"),
    (lambda: random_walk(jax.random.key(0), [3, 3], [1.0], 0.1, 3), "for 2 layers"),
  ],
)
def test_bad_arguments_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
