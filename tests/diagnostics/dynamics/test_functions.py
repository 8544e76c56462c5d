"""The model on truly scale-invariant functions of constant base gradient norm, with Optax.

The angle of a point in the plane is such a function: its gradient has the norm 1 / |W|.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tatnet.diagnostics.dynamics import (
  constrain_rates,
  critical_learning_rate,
  effective_learning_rates,
  equilibrium_rate,
  predict,
  warm_up,
)

BASE_NORMS = (1e-3, 1.0, 1e3)


def _angles(params, key):
  """Angles times base norms; the key is that of the other function."""
  del key
  return sum(c * jnp.arctan2(w[1], w[0]) for c, w in zip(BASE_NORMS, params.values(), strict=False))


def _noise(params, key):
  """A linear function of W / |W| whose slope is new and random in every step."""
  total = 0.0
  for place, (c, w) in enumerate(zip(BASE_NORMS, params.values(), strict=False)):
    unit = w / jnp.linalg.norm(w)
    slope = jax.random.normal(jax.random.fold_in(key, place), w.shape)
    across = jnp.linalg.norm(slope - (slope @ unit) * unit)
    total += c * (slope @ unit) / jax.lax.stop_gradient(across)
  return total


def _start(layers, size):
  """Weights of norm 1, so that effective rates are base norms."""
  return {str(layer): jnp.ones(size, float) / size**0.5 for layer in range(layers)}


def _rates(loss, optimizer, steps, params):
  """Effective rates before every step, ``[steps, layers]``."""

  def step(state, key):
    params, inner = state
    slopes = jax.grad(loss)(params, key)
    updates, inner = optimizer.update(slopes, inner, params)
    rates = effective_learning_rates(params, slopes).vector
    return (optax.apply_updates(params, updates), inner), rates

  keys = jax.random.split(jax.random.key(0), steps)
  state = params, optimizer.init(params)
  return np.asarray(jax.jit(lambda: jax.lax.scan(step, state, keys)[1])())


@pytest.fixture(autouse=True)
def _in_float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("learning_rate", [1e-3, 0.1, 1.0, 10.0])
def test_rates_follow_the_map_to_rounding(learning_rate):
  rates = _rates(_angles, optax.sgd(learning_rate), 200, _start(3, 2))
  np.testing.assert_allclose(rates[0], BASE_NORMS, rtol=1e-14)
  np.testing.assert_allclose(rates, predict(BASE_NORMS, learning_rate, 199).rates, rtol=1e-10)


def test_rates_of_all_layers_come_together():
  """E goes to 1 / (lambda sqrt(2 t)), whatever it was."""
  rates = _rates(_angles, optax.sgd(1.0), 100_000, _start(3, 2))[-1]
  limit = 1 / np.sqrt(2 * 99_999)
  np.testing.assert_allclose(rates[1], limit, rtol=1e-4)
  spread = rates.max() / rates.min()
  assert spread == pytest.approx(2.45, abs=0.01)  # the notes' table


def test_critical_rate_makes_two_layers_equal_in_one_step():
  start = _start(2, 2)
  critical = float(critical_learning_rate(jnp.array(BASE_NORMS[:2])))
  assert critical == pytest.approx(1000**0.5, rel=1e-12)
  after = {
    multiple: _rates(_angles, optax.sgd(multiple * critical), 2, start)[1]
    for multiple in (0.5, 1.0, 2.0)
  }
  assert after[1.0][0] == pytest.approx(after[1.0][1], rel=1e-12)
  assert after[0.5][1] / after[0.5][0] == pytest.approx(3.985, rel=2e-3)
  assert after[2.0][1] / after[2.0][0] == pytest.approx(0.2509, rel=2e-3)


@pytest.mark.parametrize(("target", "fraction"), [(1e9, 1.0), (1e9, 0.25), (3.0, 0.25)])
def test_warm_up_follows_the_model_to_rounding(target, fraction):
  # The learning rate is kept in float32.
  optimizer = warm_up(target, lambda p: dict.fromkeys(p, True), fraction=fraction)
  rates = _rates(_angles, optimizer, 20, _start(3, 2))
  expected = predict(BASE_NORMS, target, 19, warm_up=fraction)
  np.testing.assert_allclose(rates, expected.rates, rtol=1e-5)
  if target == 3.0:  # it is reached
    np.testing.assert_allclose(expected.learning_rates[[0, -1]], [0.25, 3.0], rtol=1e-6)


def test_constrained_layers_keep_their_rates_and_turn_alike():
  optimizer = constrain_rates(0.1, 1.0, lambda p: dict.fromkeys(p, True))
  rates = _rates(_angles, optimizer, 50, _start(3, 2))
  np.testing.assert_allclose(rates, [BASE_NORMS] * 50, rtol=1e-12)  # norms stay 1


@pytest.mark.parametrize(("learning_rate", "weight_decay"), [(0.1, 0.01), (1.0, 0.3)])
def test_weight_decay_leads_to_the_equilibrium(learning_rate, weight_decay):
  optimizer = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))
  rates = _rates(_angles, optimizer, 20_000, _start(3, 2))
  expected = predict(BASE_NORMS, learning_rate, 19_999, weight_decay=weight_decay).rates
  np.testing.assert_allclose(rates, expected, rtol=1e-9)
  np.testing.assert_allclose(rates[-1], equilibrium_rate(learning_rate, weight_decay), rtol=1e-9)
  product = learning_rate * weight_decay
  applied = np.sqrt(2 * product - product**2)
  np.testing.assert_allclose(learning_rate * rates[-1], applied, rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_counts_as_a_larger_learning_rate(momentum):
  """Late growth of |W|^4 by 2 (lambda c / (1 - mu))^2 per step, where directions are random."""
  rates = _rates(_noise, optax.sgd(3.0, momentum=momentum), 1000, _start(3, 1000))
  fourth = (np.array(BASE_NORMS) / rates) ** 2
  growth = (fourth[-1] - fourth[500]) / 499
  expected = 2 * (3.0 * np.array(BASE_NORMS) / (1 - momentum)) ** 2
  np.testing.assert_allclose(growth[1:], expected[1:], rtol=0.1)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_and_weight_decay_have_an_equilibrium(momentum):
  optimizer = optax.chain(optax.add_decayed_weights(0.05), optax.sgd(1.0, momentum=momentum))
  rates = _rates(_noise, optimizer, 1000, _start(3, 1000))
  found = rates[500:].mean(0)
  np.testing.assert_allclose(found, equilibrium_rate(1.0, 0.05, momentum), rtol=0.05)
