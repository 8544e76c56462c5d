"""Steps of the optimiser: norm constraint, learning rate, momentum and weight decay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_factors, random_like

from tatnet import optim

SHAPES = {
  "dense": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
  "norm": {"scale": jnp.zeros(2), "offset": jnp.zeros(2)},
}
PARAMS = random_like(SHAPES, np.random.default_rng(1))
GRADIENTS = [random_like(SHAPES, np.random.default_rng(seed)) for seed in (2, 3, 4)]
FACTORS = random_factors(SHAPES, np.random.default_rng(5))


def run(optimizer, params=PARAMS):
  """Updates for each of the gradients, always at the same parameters."""
  update = quick_jit(
    lambda gradients, state: optimizer.update(gradients, state, params, factors=FACTORS)
  )
  state, updates = optimizer.init(params), []
  for gradients in GRADIENTS:
    step, state = update(gradients, state)
    updates.append(step)
  return updates


def dot(a, b):
  return sum(
    np.vdot(np.asarray(x, float), np.asarray(y, float))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def assert_close(a, b, rtol=1e-5, atol=1e-7):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b)


@functools.cache
def preconditioned():
  """What comes out of the transform before anything else acts on it."""
  return run(optim.scale_by_kfac(0.1, burn_in=0))


@pytest.mark.parametrize("constraint", [1e-6, 1e-3, 1e3])
def test_norm_constraint_bounds_the_squared_norm_of_the_step(constraint):
  def rate(count):
    return 0.1 / (1 + count)

  updates = run(optim.scale_by_kfac(0.1, burn_in=0, norm_constraint=constraint, learning_rate=rate))
  for i, (update, p, g) in enumerate(zip(updates, preconditioned(), GRADIENTS, strict=True)):
    scale = min(1.0, np.sqrt(constraint / (rate(i) ** 2 * dot(p, g))))
    assert (scale < 1) == (constraint < 1)
    assert_close(update, jax.tree.map(lambda p, scale=scale: scale * p, p))
    # In the metric of the curvature F the step eta p has the norm eta^2 <p, F p> = eta^2 <p, g>.
    assert rate(i) ** 2 * dot(update, update) * dot(p, g) / dot(p, p) < constraint * 1.0001


def test_norm_constraint_may_be_a_schedule():
  schedule = optim.scale_by_kfac(
    0.1, burn_in=0, norm_constraint=lambda count: 1e-4 * (count + 1), learning_rate=0.1
  )
  for i, (update, p, g) in enumerate(zip(run(schedule), preconditioned(), GRADIENTS, strict=True)):
    scale = np.sqrt(1e-4 * (i + 1) / (0.1**2 * dot(p, g)))
    assert_close(update, jax.tree.map(lambda p, scale=scale: scale * p, p))


def test_a_learning_rate_of_zero_passes_the_norm_constraint():
  # The start of a warm-up.
  updates = run(
    optim.scale_by_kfac(0.1, burn_in=0, norm_constraint=1e-3, learning_rate=lambda count: 0.0)
  )
  assert_close(updates, preconditioned())


@pytest.mark.parametrize("momentum", [0.9, 0.5, None])
def test_steps_gather_momentum(momentum):
  def rate(count):
    return 0.01 * (count + 1)

  optimizer = optim.kfac(rate, momentum, damping=0.1, norm_constraint=None, burn_in=0)
  step = jax.tree.map(jnp.zeros_like, SHAPES)
  for i, (update, p) in enumerate(zip(run(optimizer), preconditioned(), strict=True)):
    step = jax.tree.map(lambda d, p, i=i: (momentum or 0) * d - rate(i) * p, step, p)
    assert_close(update, step)


def test_norm_constraint_acts_before_momentum():
  constraint, rate = 1e-4, 0.1
  optimizer = optim.kfac(rate, 0.9, damping=0.1, norm_constraint=constraint, burn_in=0)
  step = jax.tree.map(jnp.zeros_like, SHAPES)
  for update, p, g in zip(run(optimizer), preconditioned(), GRADIENTS, strict=True):
    scale = min(1.0, np.sqrt(constraint / (rate**2 * dot(p, g))))
    step = jax.tree.map(lambda d, p, scale=scale: 0.9 * d - rate * scale * p, step, p)
    assert_close(update, step)


def test_weight_decay_is_outside_the_curvature_and_on_weights_only():
  optimizer = optim.kfac(0.1, None, damping=0.1, norm_constraint=None, burn_in=0, weight_decay=0.3)
  for update, p in zip(run(optimizer), preconditioned(), strict=True):
    decayed = {
      "dense": {"w": p["dense"]["w"] + 0.3 * PARAMS["dense"]["w"], "b": p["dense"]["b"]},
      "norm": p["norm"],
    }
    assert_close(update, jax.tree.map(lambda p: -0.1 * p, decayed))


MASK = {"dense": {"w": False, "b": True}, "norm": {"scale": False, "offset": False}}


@pytest.mark.parametrize(
  "mask",
  [
    MASK,
    jax.tree.map(np.bool_, MASK),
    lambda params: MASK,
    {"dense": MASK["dense"], "norm": False},
  ],
)
def test_weight_decay_has_a_mask(mask):
  optimizer = optim.kfac(
    0.1,
    None,
    damping=0.1,
    norm_constraint=None,
    burn_in=0,
    weight_decay=0.3,
    weight_decay_mask=mask,
  )
  update, p = run(optimizer)[0], preconditioned()[0]
  np.testing.assert_allclose(update["dense"]["w"], -0.1 * p["dense"]["w"], rtol=1e-5)
  expected = -0.1 * (p["dense"]["b"] + 0.3 * PARAMS["dense"]["b"])
  np.testing.assert_allclose(update["dense"]["b"], expected, rtol=1e-5)
  np.testing.assert_allclose(update["norm"]["scale"], -0.1 * p["norm"]["scale"], rtol=1e-5)


def test_options_reach_the_preconditioner():
  options = {"decay": 0.5, "factors_every": 2, "inverse_every": 2, "burn_in": 1}
  steps = run(optim.kfac(0.1, None, damping=0.2, norm_constraint=None, **options))
  p = run(optim.scale_by_kfac(0.2, **options))
  assert_close(steps, jax.tree.map(lambda p: -0.1 * p, p))
  assert not any(u.any() for u in jax.tree.leaves(steps[0]))


@pytest.mark.parametrize(("rate", "is_dangerous"), [(0.05, False), (0.5, True)])
def test_overshoot_tells_a_rate_over_damping_that_is_too_high(rate, is_dangerous):
  # The loss is |w|^2 times 5, so gradient descent bears a rate of 0.2; factors of zero leave
  # the damping of 1 alone.
  params = {"dense": {"w": jnp.ones((2, 2))}}
  factors = optim.Factors(
    jnp.ones(()), {"dense": {"inputs": jnp.zeros((2, 2)), "outputs": jnp.zeros((2, 2))}}
  )
  optimizer = optim.kfac(rate, 0.0, damping=1.0, norm_constraint=None, burn_in=0)

  @quick_jit
  def step(params, state):
    updates, state = optimizer.update(
      jax.tree.map(lambda w: 10 * w, params), state, params, factors=factors
    )
    return jax.tree.map(jnp.add, params, updates), state

  state = optimizer.init(params)
  for _ in range(8):
    params, state = step(params, state)
  assert (state[-1].overshoot > 1) == is_dangerous
