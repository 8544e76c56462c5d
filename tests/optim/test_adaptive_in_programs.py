"""The transform that finds its step sizes: in other programs, precisions, and across restarts."""

import functools
import pickle

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import optax
from kfac_references import mlp_params, quick_jit, random_params, tapped_mlp

from tatnet import optim

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 4)).astype(np.float32), RNG.integers(0, 3, 12)
LOSS = optim.SoftmaxCrossEntropy()
KEYS = jax.random.split(jax.random.key(0), 6)
EVALUATE = optim.value_grad_and_factors(tapped_mlp, LOSS)


def automatic(**options):
  return optim.adaptive_kfac(burn_in=1, inverse_every=2, adapt_every=2, **options)


def start(optimizer):
  params = jax.tree.map(lambda p: p.astype(jnp.float32), mlp_params((4, 5, 3)))
  return params, optimizer.init(params)


def step_of(optimizer):
  def step(carry, key):
    params, state = carry
    result = EVALUATE(params, X, Y, key=key)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )
    return (optax.apply_updates(params, updates), state), result.loss

  return step


@functools.cache
def jitted_step():
  return quick_jit(step_of(automatic()))


@functools.cache
def carries():
  """Before every step of a loop in Python, and at the end."""
  found = [start(automatic())]
  for key in KEYS:
    found.append(jitted_step()(found[-1], key)[0])
  return found


def assert_close(a, b, rtol=2e-3):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-4), a, b)


def test_loop_in_a_scan_does_the_same():
  (params, state), losses = quick_jit(
    lambda carry: jax.lax.scan(step_of(automatic()), carry, KEYS)
  )(start(automatic()))
  assert losses[-1] < losses[0]
  expected, state_of_loop = carries()[-1]
  assert_close(params, expected)
  assert_close(state.damping, state_of_loop.damping)


def test_run_goes_on_from_a_state_that_was_written_and_read():
  leaves, structure = jax.tree.flatten(carries()[3])
  read = pickle.loads(pickle.dumps([np.asarray(leaf) for leaf in leaves]))
  carry = jax.tree.unflatten(structure, read)
  for key in KEYS[3:]:
    carry, _ = jitted_step()(carry, key)
  jax.tree.map(np.testing.assert_array_equal, carry, carries()[-1])


def test_state_keeps_its_structure_shapes_and_dtypes():
  optimizer = automatic(weight_decay=0.1)
  before = jax.eval_shape(lambda: start(optimizer))
  (_, after), _ = jax.eval_shape(step_of(optimizer), before, KEYS[0])
  assert after == before[1]


def test_is_a_link_of_a_chain():
  half = optax.chain(automatic(), optax.scale(0.5))
  params, state = carries()[2]
  result = quick_jit(EVALUATE)(params, X, Y, key=KEYS[2])
  extra = {"factors": result.factors, "model": result.model}
  whole, _ = quick_jit(automatic().update)(result.gradients, state, params, **extra)
  scaled, after = quick_jit(half.update)(
    result.gradients, (state, optax.ScaleState()), params, **extra
  )
  assert any(leaf.any() for leaf in jax.tree.leaves(whole))
  assert_close(scaled, jax.tree.map(lambda u: u / 2, whole))
  assert jax.tree.structure(after) == jax.tree.structure(half.init(params))


def test_damping_that_is_injected_changes_without_compiling_again():
  make = optax.inject_hyperparams(optim.adaptive_kfac, static_args="weight_decay")
  optimizer = make(damping=0.1, burn_in=0)
  traces = []

  @quick_jit
  def update(params, state):
    traces.append(1)
    result = EVALUATE(params, X, Y, key=KEYS[0])
    return optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )

  params, state = start(optimizer)
  steps = []
  for damping in (0.1, 10.0):
    state.hyperparams["damping"] = jnp.asarray(damping)
    updates, after = update(params, state)
    np.testing.assert_allclose(after.inner_state.damping, damping, rtol=1e-6)
    steps.append(float(after.inner_state.step_norm))
    assert np.isfinite(optax.tree.norm(updates))
  assert steps[1] < steps[0]
  assert len(traces) == 1


class Network(hk.Module):
  def __call__(self, x):
    return hk.Linear(3)(jnp.tanh(hk.Linear(8)(x)))


def test_model_that_computes_in_half_precision_trains_with_numbers_in_full():
  network = hk.without_apply_rng(hk.transform(lambda x: Network()(x)))
  params = random_params(network, X)
  optimizer = automatic()
  evaluate = optim.value_grad_and_factors(network, LOSS)

  @quick_jit
  def step(params, state, key):
    result = evaluate(params, X, Y, key=key)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )
    return optax.apply_updates(params, updates), state, result

  state, losses = optimizer.init(params), []
  policy = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
  with hk.mixed_precision.push_policy(Network, policy):
    for key in jax.random.split(jax.random.key(1), 20):
      before = params
      params, state, result = step(params, state, key)
      losses.append(float(result.loss))
  assert np.abs(result.outputs - network.apply(before, X)).max() > 1e-4  # it is half precision
  kinds = {leaf.dtype for leaf in jax.tree.leaves((params, state))}
  assert jnp.dtype(jnp.bfloat16) not in kinds
  assert losses[-1] < 0.5 * losses[0]
  assert 0.2 < state.reduction_ratio < 2
