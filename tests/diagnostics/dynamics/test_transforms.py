"""Optax transforms that record effective learning rates, and that act on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tatnet.diagnostics.dynamics import (
  constrain_rates,
  effective_learning_rates,
  predict,
  record_rates,
  recorded_rates,
  scale_invariant,
  warm_up,
)

DEPTH, WIDTH = 20, 64
STACK = "layer_stack/linear"
INPUTS = jax.random.normal(jax.random.key(0), [128, WIDTH])
LABELS = jnp.argmax(INPUTS[:, :10], 1)


def _network(params, x):
  """The residual network without shortcuts of the paper, in small: dense layers, batch norm."""

  def layer(h, w):
    h = h @ w
    return jax.nn.relu((h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)), None

  h, _ = jax.lax.scan(layer, x, params[STACK]["w"])
  return h @ params["logits"]["w"] + params["logits"]["b"]


@jax.jit
@jax.value_and_grad
def _loss(params):
  outputs = _network(params, INPUTS)
  return optax.softmax_cross_entropy_with_integer_labels(outputs, LABELS).mean()


@functools.cache
def _start(seed=0):
  rng = np.random.default_rng(seed)
  weights = rng.standard_normal([DEPTH, WIDTH, WIDTH]) * (2 / WIDTH) ** 0.5
  logits = rng.standard_normal([WIDTH, 10]) * WIDTH**-0.5
  return {
    STACK: {"w": jnp.asarray(weights, jnp.float32)},
    "logits": {"w": jnp.asarray(logits, jnp.float32), "b": jnp.zeros(10)},
  }


@functools.cache
def _mask():
  return scale_invariant(lambda p: _network(p, INPUTS[:16]), _start())


def _train(optimizer, steps, params):
  """Parameters and the recorded rates after some steps of an optimiser."""
  optimizer = optax.chain(record_rates(_mask(), steps), optimizer)
  update = jax.jit(optimizer.update)
  state = optimizer.init(params)
  for _ in range(steps):
    _, gradients = _loss(params)
    updates, state = update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, recorded_rates(state), state


def test_mask_is_all_but_the_classifier():
  assert _mask() == {STACK: {"w": True}, "logits": {"w": False, "b": False}}


@pytest.mark.parametrize(("seed", "fraction"), [(0, 1.0), (1, 1.0), (2, 1.0), (1, 0.25)])
def test_first_step_of_warm_up_reduces_the_spread_as_predicted(seed, fraction):
  params = _start(seed)
  rates = effective_learning_rates(params, _loss(params)[1], _mask())
  expected = predict(rates, 1e9, 1, warm_up=fraction).spread
  _, log, _ = _train(warm_up(1e9, _mask(), fraction=fraction), 2, params)
  assert log.spread[0] == pytest.approx(expected[0], rel=1e-4)
  assert (
    expected[0] / expected[1] / 3 < log.spread[0] / log.spread[1] < expected[0] / expected[1] * 3
  )
  assert log.spread[1] < log.spread[0] / 3


@pytest.mark.parametrize(("seed", "fraction", "steps"), [(0, 1.0, 4), (1, 1.0, 4), (1, 0.25, 16)])
def test_warm_up_comes_to_its_target_with_a_smaller_spread(seed, fraction, steps):
  """Three times the critical rate at once, or by way of it."""
  params = _start(seed)
  critical = effective_learning_rates(params, _loss(params)[1], _mask()).critical
  target = 3 * float(critical)
  _, warmed, state = _train(warm_up(target, _mask(), fraction=fraction), steps, params)
  _, base, _ = _train(optax.sgd(target), steps, params)
  assert warmed.spread[1] < base.spread[1]
  assert bool(state[1].is_over)
  assert float(state[1].learning_rate) == pytest.approx(target)


def test_small_constant_learning_rate_reduces_the_spread():
  _, log, _ = _train(optax.sgd(0.3), 30, _start())
  assert log.spread[-1] < log.spread[0] / 3


def test_huge_learning_rate_turns_the_order_of_layers_round():
  params = _start()
  critical = effective_learning_rates(params, _loss(params)[1], _mask()).critical
  _, log, _ = _train(optax.sgd(100 * float(critical)), 2, params)
  first, last = log.rates[f"{STACK}/w"][:, 1], log.rates[f"{STACK}/w"][:, -1]
  assert first[0] > 3 * last[0]
  assert first[1] < last[1]


def test_spread_after_a_step_is_least_near_the_critical_rate():
  """It falls towards that rate, rises beyond, and then exceeds the initial one."""
  params = _start()
  critical = float(effective_learning_rates(params, _loss(params)[1], _mask()).critical)
  spreads = {
    multiple: _train(optax.sgd(multiple * critical), 2, params)[1].spread
    for multiple in (1 / 30, 1 / 3, 3, 30)
  }
  before = spreads[3][0]
  after = {multiple: spread[1] for multiple, spread in spreads.items()}
  assert after[1 / 3] < after[1 / 30] < before
  assert after[1 / 3] < after[3] < after[30]
  assert after[30] > before


def test_warm_up_below_the_critical_rate_is_gradient_descent():
  warmed, _, _ = _train(warm_up(0.05, _mask()), 5, _start())
  base, _, _ = _train(optax.sgd(0.05), 5, _start())
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), warmed, base)


def test_warm_up_follows_the_model_on_scale_invariant_losses():
  """Base gradient norms are not constant here, but the first learning rates are exact."""
  params = _start()
  _, log, _ = _train(warm_up(1e9, _mask(), fraction=1.0), 3, params)
  for step in range(2):
    vector = log.rates[f"{STACK}/w"][step]
    norms, later = log.weight_norms[f"{STACK}/w"][step : step + 2]
    learning_rate = 1 / np.sqrt(vector.max() * vector.min())
    expected = norms * np.sqrt(1 + (learning_rate * vector) ** 2)  # Pythagoras
    np.testing.assert_allclose(later, expected, rtol=1e-3)


def test_warm_up_with_momentum_applies_its_rate_to_the_inner_direction():
  mask = {"a": True, "b": False}
  params = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([1.0])}
  gradients = {"a": jnp.array([0.0, 10.0]), "b": jnp.array([1.0])}
  optimizer = warm_up(1.0, mask, optax.trace(0.5), fraction=1.0)
  state = optimizer.init(params)
  first, state = optimizer.update(gradients, state, params)
  second, _ = optimizer.update(gradients, state, params)
  np.testing.assert_allclose(first["a"], [0.0, -1.0], rtol=1e-6)  # 1/E = 0.1
  np.testing.assert_allclose(second["b"], [-0.15], rtol=1e-6)


def test_warm_up_with_a_schedule_that_falls():
  optimizer = warm_up(optax.linear_schedule(1.0, 0.0, 10), {"a": True})
  params, small = {"a": jnp.array([1.0, 0.0])}, {"a": jnp.array([0.0, 0.1])}
  state, rates = optimizer.init(params), []
  for _ in range(3):
    _, state = optimizer.update(small, state, params)
    rates.append(float(state.learning_rate))
  np.testing.assert_allclose(rates, [1.0, 0.9, 0.8], rtol=1e-6)


@pytest.mark.parametrize("renormalize", [True, False])
def test_constrained_layers_all_turn_by_the_same_angle(renormalize):
  optimizer = constrain_rates(0.1, 0.05, _mask(), renormalize=renormalize)
  before = _start()
  after, _, _ = _train(optimizer, 1, before)
  slope = _loss(before)[1]["logits"]["w"]
  expected = before["logits"]["w"] - 0.05 * slope
  np.testing.assert_allclose(after["logits"]["w"], expected, rtol=1e-4, atol=1e-6)
  for old, new in zip(np.float64(before[STACK]["w"]), np.float64(after[STACK]["w"]), strict=True):
    lengths = np.linalg.norm(old), np.linalg.norm(new)
    angle = np.arccos(np.sum(old * new) / np.prod(lengths))
    assert angle == pytest.approx(np.arctan(0.1), rel=2e-3)
    assert lengths[1] / lengths[0] == pytest.approx(1 if renormalize else 1.01**0.5, rel=1e-5)


def test_constrained_training_reduces_the_loss():
  params, _, _ = _train(constrain_rates(0.05, 0.05, _mask(), optax.trace(0.5)), 40, _start())
  assert _loss(params)[0] < 0.9 * _loss(_start())[0]


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_turns_behind_momentum_of_independent_gradients(momentum):
  """Each step turns a layer by the angle of a sum of independent directions."""
  optimizer = constrain_rates(0.01, 0.1, {"w": True}, optax.trace(momentum))

  def step(carry, key):
    params, state = carry
    draw, w = jax.random.normal(key, [1000]), params["w"]
    gradient = draw - (draw @ w) * w / (w @ w)
    updates, state = optimizer.update({"w": gradient}, state, params)
    new = optax.apply_updates(params, updates)
    chord = jnp.linalg.norm(new["w"] / jnp.linalg.norm(new["w"]) - w / jnp.linalg.norm(w))
    return (new, state), 2 * jnp.arcsin(chord / 2)

  params = {"w": jax.random.normal(jax.random.key(0), [1000])}
  keys = jax.random.split(jax.random.key(1), 600)
  _, angles = jax.lax.scan(step, (params, optimizer.init(params)), keys)
  found = float(angles[200:].mean()) / np.arctan(0.01)
  assert found == pytest.approx((1 - momentum**2) ** -0.5, rel=0.03)


def test_constraint_leaves_a_layer_without_gradient_alone():
  optimizer = constrain_rates(0.1, 0.1, {"a": True, "b": True})
  params = {"a": jnp.ones(2), "b": jnp.array([1.0, 0.0])}
  gradients = {"a": jnp.zeros(2), "b": jnp.array([0.0, 1e-30])}
  steps, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_array_equal(steps["a"], 0)
  assert float(steps["b"][1]) == pytest.approx(-0.1 / 1.01**0.5, rel=1e-5)


def test_constraint_of_stacked_layers_is_layer_by_layer():
  name = "layer_stack/linear"
  optimizer = constrain_rates(0.5, 0.1, {name: {"w": True}}, renormalize=False)
  params = {name: {"w": jnp.array([[1.0, 0.0], [0.0, 4.0]])}}
  gradients = {name: {"w": jnp.array([[0.0, 100.0], [1e-3, 0.0]])}}
  steps, _ = optimizer.update(gradients, optimizer.init(params), params)
  np.testing.assert_allclose(steps[name]["w"], [[0.0, -0.5], [-2.0, 0.0]], rtol=1e-6)


def test_recording_changes_nothing_and_keeps_the_last_updates():
  plain, recorded = optax.sgd(0.1), optax.chain(record_rates(_mask(), 3), optax.sgd(0.1))
  params, state, plain_state = _start(), recorded.init(_start()), plain.init(_start())
  assert not len(recorded_rates(state).steps)
  spreads = []
  for _ in range(5):
    _, gradients = _loss(params)
    spreads.append(float(effective_learning_rates(params, gradients, _mask()).spread))
    updates, state = recorded.update(gradients, state, params)
    expected, plain_state = plain.update(gradients, plain_state, params)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    params = optax.apply_updates(params, updates)
  log = recorded_rates(state)
  np.testing.assert_array_equal(log.steps, [2, 3, 4])
  np.testing.assert_allclose(log.spread, spreads[2:], rtol=1e-5)
  assert log.rates[f"{STACK}/w"].shape == (3, DEPTH)


def test_states_keep_their_shapes_and_types():
  optimizer = optax.chain(record_rates(_mask(), 2), warm_up(0.1, _mask(), optax.trace(0.9)))
  state = optimizer.init(_start())
  _, new = optimizer.update(_loss(_start())[1], state, _start())
  shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
  assert shapes(state) == shapes(new)


def test_low_precision_steps_keep_their_type():
  params = {"a": jnp.ones(4, jnp.bfloat16)}
  for optimizer in (warm_up(0.1, {"a": True}), constrain_rates(0.1, 0.1, {"a": True})):
    steps, _ = optimizer.update(params, optimizer.init(params), params)
    assert steps["a"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "make", [record_rates, lambda m: warm_up(0.1, m), lambda m: constrain_rates(0.1, 0.1, m)]
)
def test_transforms_refuse_missing_parameters_and_wrong_masks(make):
  params = {"a": jnp.ones(2)}
  optimizer = make(lambda p: jax.tree.map(lambda _: True, p))
  with pytest.raises(ValueError, match=r"optimizer\.update\(gradients, state, params\)"):
    optimizer.update(params, optimizer.init(params))
  with pytest.raises(ValueError, match="differ in 'a', 'b'"):
    make({"b": True}).init(params)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: record_rates(None, history=-1), "history=-1"),
    (lambda: warm_up(0.0, None), "learning_rate=0.0"),
    (lambda: warm_up(0.1, None, fraction=2.0), r"fraction=2.0; expected a number in \(0, 1\]"),
    (lambda: constrain_rates(-1.0, 0.1, None), "rate=-1.0"),
    (lambda: recorded_rates(optax.sgd(0.1).init({"a": jnp.ones(2)})), "0 states of record_rates"),
  ],
)
def test_bad_arguments_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
