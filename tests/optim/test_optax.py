"""K-FAC among Optax transforms, under jit, scan and vmap."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_references import quick_jit, random_factors, random_like, random_params

import tatnet
from tatnet import optim

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
PARAMS = {
  "dense": {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)},
  "norm": {"scale": jnp.ones(3), "offset": jnp.zeros(3)},
  "last": {"w": jnp.ones((3, 2))},
}
GRADIENTS = random_like(PARAMS, np.random.default_rng(2))
FACTORS = random_factors(PARAMS, np.random.default_rng(3))


def assert_close(a, b, rtol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7), a, b)


def one_update(optimizer):
  return quick_jit(lambda g, s: optimizer.update(g, s, PARAMS, factors=FACTORS))(
    GRADIENTS, optimizer.init(PARAMS)
  )


@functools.cache
def plain_update():
  return one_update(optim.kfac(0.1, damping=0.1, burn_in=0))[0]


def test_least_squares_are_solved_in_a_few_steps():
  network = hk.transform(lambda x: hk.Linear(2)(x))
  params = random_params(network, X)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError())
  rate = optax.linear_schedule(0.2, 1.0, 5)
  optimizer = optim.kfac(rate, None, damping=1e-4, norm_constraint=None, burn_in=0, inverse_every=1)

  def step(carry, key):
    params, state = carry
    result = evaluate(params, X, X @ W + 1, key=key)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, value=result.loss
    )
    return (optax.apply_updates(params, updates), state), result.loss

  @quick_jit
  def train(params):
    keys = jax.random.split(jax.random.key(0), 20)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)

  (params, _), losses = train(params)
  assert losses[-1] < 1e-6 * losses[0]
  np.testing.assert_allclose(params["linear"]["w"], W, atol=1e-2)


def test_is_a_link_of_a_chain():
  optimizer = optax.chain(
    optax.clip(1e9),
    optim.scale_by_kfac(0.1, burn_in=0, norm_constraint=1e-3, learning_rate=0.1),
    optax.scale_by_learning_rate(0.1),
    optax.trace(0.9),
  )
  assert_close(one_update(optimizer)[0], plain_update())


def test_top_level_names_are_those_of_the_subpackage():
  assert tatnet.kfac is optim.kfac
  assert tatnet.scale_by_kfac is optim.scale_by_kfac
  assert tatnet.value_grad_and_factors is optim.value_grad_and_factors


def test_injected_hyperparameters_change_without_compiling_again():
  optimizer = optax.inject_hyperparams(optim.kfac)(learning_rate=0.1, damping=0.1, burn_in=0)
  traces = []

  @jax.jit
  def update(state):
    traces.append(1)
    return optimizer.update(GRADIENTS, state, PARAMS, factors=FACTORS)[0]

  state = optimizer.init(PARAMS)
  for rate, damping in ((0.1, 0.1), (0.02, 0.7)):
    state.hyperparams["learning_rate"] = jnp.asarray(rate)
    state.hyperparams["damping"] = jnp.asarray(damping)
    expected = one_update(optim.kfac(rate, damping=damping, burn_in=0))[0]
    assert_close(update(state), expected, rtol=1e-4)
  assert len(traces) == 1


LABELS = {
  "by parameter": {
    "dense": {"w": "kfac", "b": "kfac"},
    "norm": {"scale": "adam", "offset": "adam"},
    "last": {"w": "kfac"},
  },
  "by layer": {"dense": "kfac", "norm": "adam", "last": "kfac"},
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_some_layers_are_left_to_another_optimiser(labels):
  parts = {
    "kfac": optim.kfac(0.1, damping=0.1, norm_constraint=None, burn_in=0, weight_decay=0.1),
    "adam": optax.adam(0.1),
  }
  updates, state = one_update(optax.partition(parts, labels))
  everything, _ = one_update(parts["kfac"])
  assert_close(updates["dense"], everything["dense"])
  assert_close(updates["last"], everything["last"])
  # Adam's first step is the rate, against the sign of the gradient.
  expected = jax.tree.map(lambda g: -0.1 * jnp.sign(g), GRADIENTS["norm"])
  assert_close(updates["norm"], expected, rtol=1e-4)
  assert bool(optim.factors_due(state))


def test_masked_layers_pass_as_they_are():
  optimizer = optax.masked(
    optim.scale_by_kfac(0.1, burn_in=0), {"dense": True, "norm": False, "last": False}
  )
  updates, _ = one_update(optimizer)
  assert_close(
    {k: updates[k] for k in ("norm", "last")}, {k: GRADIENTS[k] for k in ("norm", "last")}
  )
  assert_close(updates["dense"], one_update(optim.scale_by_kfac(0.1, burn_in=0))[0]["dense"])


def test_state_keeps_its_structure_shapes_and_dtypes():
  optimizer = optim.kfac(optax.constant_schedule(0.1), weight_decay=0.1)
  state = jax.eval_shape(optimizer.init, PARAMS)
  after = jax.eval_shape(
    lambda s: optimizer.update(GRADIENTS, s, PARAMS, factors=FACTORS)[1], state
  )
  assert after == state


def test_init_takes_shapes_alone():
  optimizer = optim.kfac(0.1)
  shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
  concrete = optimizer.init(PARAMS)
  expected = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), concrete)
  assert jax.eval_shape(optimizer.init, shapes) == expected


def test_loop_in_a_scan_and_donated_steps_do_the_same():
  optimizer = optim.kfac(0.1, damping=0.1, burn_in=1, inverse_every=2)

  def step(carry):
    params, state = carry
    gradients = jax.tree.map(lambda g, p: g + p, GRADIENTS, params)
    updates, state = optimizer.update(gradients, state, params, factors=FACTORS)
    return optax.apply_updates(params, updates), state

  def fresh():
    params = jax.tree.map(jnp.copy, PARAMS)
    return params, optimizer.init(params)

  scanned, _ = quick_jit(lambda carry: jax.lax.scan(lambda c, _: (step(c), None), carry, length=4))(
    fresh()
  )
  donated, first = quick_jit(step, donate_argnums=0), fresh()
  carry = first
  for _ in range(4):
    carry = donated(carry)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first[1][0].curvature))
  assert_close(carry, scanned)


def test_ensemble_under_vmap_is_updated_member_by_member():
  optimizer = optim.kfac(0.1, damping=0.1, burn_in=0)
  members = [GRADIENTS, jax.tree.map(lambda g: 2 * g, GRADIENTS)]
  scaled = [FACTORS, jax.tree.map(lambda f: 3 * f, FACTORS)._replace(weight=jnp.ones(()))]

  def update(gradients, factors):
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS, factors=factors)[0]

  stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
  together = quick_jit(jax.vmap(update))(stack(*members), stack(*scaled))
  one_by_one = [quick_jit(update)(g, f) for g, f in zip(members, scaled, strict=True)]
  assert_close(together, stack(*one_by_one), rtol=1e-4)


def test_updates_that_are_not_finite_are_skipped_by_apply_if_finite():
  optimizer = optax.apply_if_finite(optim.kfac(0.1, burn_in=0), max_consecutive_errors=3)
  state = optimizer.init(PARAMS)
  bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS)
  updates, after = quick_jit(lambda g, s: optimizer.update(g, s, PARAMS, factors=FACTORS))(
    bad, state
  )
  assert all(not u.any() for u in jax.tree.leaves(updates))
  assert_close(after.inner_state, state.inner_state)
