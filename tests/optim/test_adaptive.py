"""Step sizes that K-FAC finds itself, against the dense model of a small net in float64."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from kfac_references import mlp, mlp_params, quick_jit, random_params, tapped_mlp

import tatnet
from tatnet import optim

LOSS = optim.SoftmaxCrossEntropy()
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)
DECAY = 0.05
OPTIONS = {"burn_in": 1, "inverse_every": 1, "adapt_every": 2, "weight_decay": DECAY}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def flat(tree):
  return np.asarray(ravel_pytree(tree)[0], float)


def is_weight(params):
  return flat(
    jax.tree.map_with_path(lambda path, p: jnp.full(p.shape, path[-1].key == "w"), params)
  )


def objective(params):
  mean = LOSS.per_example(mlp(params, X), Y).mean()
  return float(mean + DECAY / 2 * np.sum(is_weight(params) * flat(params) ** 2))


@functools.cache
def fisher_of(network=mlp):
  """Jitted: the dense Fisher matrix of the batch, by Jacobians and probabilities."""

  def dense(params):
    vector, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda v: network(unravel(v), X))(vector)
    p = jax.nn.softmax(network(params, X))
    hessians = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(p)
    return jnp.einsum("noi,nop,npj->ij", jacobian, hessians, jacobian) / len(X)

  return quick_jit(dense)


def run(steps, **options):
  """Parameters, updates and states of some steps."""
  optimizer = optim.adaptive_kfac(**(OPTIONS | options))
  evaluate = optim.value_grad_and_factors(tapped_mlp, LOSS)

  @quick_jit
  def step(params, state, key):
    result = evaluate(params, X, Y, key=key)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )
    return updates, state, result.gradients

  params = mlp_params((4, 5, 3))
  state, rows = optimizer.init(params), []
  for key in jax.random.split(jax.random.key(0), steps):
    updates, new, gradients = step(params, state, key)
    rows.append((params, updates, state, new, gradients))
    params, state = optax.apply_updates(params, updates), new
  return rows


@functools.cache
def automatic():
  return run(7)


def test_burn_in_does_not_move_and_the_first_step_has_no_momentum():
  (_, first, *_), (_, second, _, state, _), *_ = automatic()
  assert not flat(first).any()
  assert flat(second).any()
  assert state.momentum == 0
  assert state.learning_rate > 0


def test_step_is_the_minimum_of_the_dense_model_along_its_directions():
  for params, updates, before, after, gradients in automatic()[2:]:
    decays = DECAY * np.diag(is_weight(params))
    gradient = flat(gradients) + decays @ flat(params)
    curvature = np.asarray(fisher_of()(params)) + decays
    last, step, damping = flat(before.step), flat(updates), float(before.damping)
    rate, momentum = float(after.learning_rate), float(after.momentum)
    direction = (momentum * last - step) / rate
    for v in (direction, last):  # the slope of the damped model vanishes along both
      slope = v @ (gradient + curvature @ step + damping * step)
      assert abs(slope) < 1e-5 * np.linalg.norm(v) * np.linalg.norm(gradient)
    expected = gradient @ step + step @ curvature @ step / 2
    np.testing.assert_allclose(after.expected_change, expected, rtol=1e-4)
    change = objective(optax.apply_updates(params, updates)) - objective(params)
    np.testing.assert_allclose(after.loss_change, change, rtol=1e-4)
    np.testing.assert_allclose(after.reduction_ratio, change / expected, rtol=1e-3)
    np.testing.assert_allclose(after.step_norm, np.linalg.norm(step), rtol=1e-5)
    np.testing.assert_allclose(after.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)


def test_damping_changes_on_every_second_step_by_the_ratio():
  for number, (_, _, before, after, _) in enumerate(automatic()[2:], start=2):
    ratio, factor = float(after.reduction_ratio), 1.0
    if (number - 1 + 1) % 2 == 0:
      factor = 0.9**5 if ratio > 0.75 else 0.9**-5 if ratio < 0.25 else 1.0
    np.testing.assert_allclose(after.damping, before.damping * factor, rtol=1e-5)


def trace_of(state):
  """Of the averaged curvature."""
  sides = optim.curvature_by_layer(state, mlp_params((4, 5, 3)))
  return sum(
    np.trace(optim.symmetric.average_of(layer["inputs"]))
    * np.trace(optim.symmetric.average_of(layer["outputs"]))
    for layer in sides.values()
  )


def test_damping_starts_in_proportion_to_the_curvature():
  *_, state, _ = automatic()[1]
  assert 1e-4 * trace_of(state) < state.damping < 1e-1 * trace_of(state)


@functools.cache
def one_step():
  """Jitted: updates, the new state, and the gradients."""
  optimizer = optim.adaptive_kfac(**(OPTIONS | {"adapt_every": 1}))
  evaluate = optim.value_grad_and_factors(tapped_mlp, LOSS)

  @quick_jit
  def step(params, state):
    found = evaluate(params, X, Y, key=jax.random.key(9))
    return *optimizer.update(
      found.gradients, state, params, factors=found.factors, model=found.model
    ), found.gradients

  return step


def test_damping_ends_in_proportion_to_the_curvature():
  params, updates, _, before, _ = automatic()[-1]
  before = before._replace(damping=jnp.float32(1e-20))
  _, after, _ = one_step()(optax.apply_updates(params, updates), before)
  assert after.rejected == before.rejected
  np.testing.assert_allclose(after.damping, 1e-7 * trace_of(after), rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_last_step_is_never_made_longer(sign):
  params, updates, _, before, _ = automatic()[-1]
  params = optax.apply_updates(params, updates)
  before = before._replace(step=jax.tree.map(lambda d: 1e-3 * sign * d, before.step))
  updates, after, gradients = one_step()(params, before)
  assert abs(float(after.momentum)) == 1
  decays = DECAY * np.diag(is_weight(params))
  gradient = flat(gradients) + decays @ flat(params)
  damped = fisher_of()(params) + decays + float(before.damping) * np.eye(len(gradient))
  step, last = flat(updates), float(after.momentum) * flat(before.step)
  direction = (last - step) / float(after.learning_rate)
  slope = direction @ (gradient + damped @ step)  # the rate is the best for that momentum
  assert abs(slope) < 1e-5 * np.linalg.norm(direction) * np.linalg.norm(gradient)
  assert last @ (gradient + damped @ step) < 0  # a longer one would be better for this batch


@pytest.mark.parametrize("given", [{"learning_rate": 0.1}, {"momentum": 0.5}, {"damping": 0.3}])
def test_each_of_the_three_may_be_fixed(given):
  (name, value), *_ = given.items()
  for *_, after, _ in run(4, **given)[2:]:
    np.testing.assert_allclose(getattr(after, name), value, rtol=1e-6)


def test_step_that_raises_the_loss_far_beyond_the_model_is_not_taken():
  rows = run(5, learning_rate=1e4, momentum=0.0)
  assert all(not flat(updates).any() for _, updates, *_ in rows)
  states = [after for *_, after, _ in rows]
  assert [int(state.rejected) for state in states] == [0, 1, 2, 3, 4]
  dampings = [float(state.damping) for state in states[1:]]
  np.testing.assert_allclose(np.diff(np.log(dampings)), np.log(4), rtol=1e-5)


def test_gradient_that_is_not_finite_changes_nothing_but_its_count():
  optimizer = optim.adaptive_kfac(**OPTIONS)
  evaluate = optim.value_grad_and_factors(tapped_mlp, LOSS)

  @quick_jit
  def step(params, state, x):
    result = evaluate(params, x, Y, key=jax.random.key(0))
    return optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )

  params, *_, state, _ = automatic()[3]
  updates, after = step(params, state, jnp.asarray(X).at[0, 0].set(jnp.nan))
  assert not flat(updates).any()
  np.testing.assert_array_equal(flat(after.step), flat(state.step))
  assert after.damping == state.damping
  assert int(after.kfac.skipped_updates) == 1
  assert int(after.rejected) == 0
  updates, _ = step(params, after, jnp.asarray(X))
  assert np.isfinite(flat(updates)).all()
  assert flat(updates).any()


def stacked(x):
  x = hk.experimental.layer_stack(2)(lambda x: jnp.tanh(hk.Linear(4, name="dense")(x)))(x)
  return hk.Linear(3, name="last")(hk.LayerNorm(-1, True, True, name="norm")(x))


@pytest.mark.parametrize("sharing", ["reduce", "expand"])
def test_a_haiku_model_with_stacked_layers_trains_by_itself_in_a_donated_step(sharing):
  network = hk.without_apply_rng(hk.transform(stacked))
  with jax.enable_x64(False):
    x, y = X.astype(np.float32), jnp.asarray(Y, jnp.int32)
    params = random_params(network, x)
    optimizer = tatnet.adaptive_kfac(burn_in=2)
    evaluate = optim.value_grad_and_factors(network, LOSS, sharing=sharing)

    @functools.partial(quick_jit, donate_argnums=(0, 1))
    def step(params, state, key):
      result = evaluate(params, x, y, key=key, refresh=optim.factors_due(state))
      updates, state = optimizer.update(
        result.gradients, state, params, factors=result.factors, model=result.model
      )
      return optax.apply_updates(params, updates), state, result.loss

    state, losses = optimizer.init(params), []
    like = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    for key in jax.random.split(jax.random.key(0), 25):
      params, state, loss = step(params, state, key)
      losses.append(float(loss))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == like
  assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"learning_rate": 0.0}, "learning_rate=0.0; expected a number above 0"),
    ({"momentum": 1.0}, r"momentum=1.0; expected a number in \[0, 1\)"),
    ({"damping": -1.0}, "damping=-1.0; expected a number above 0"),
    ({"adapt_every": 0}, "adapt_every=0; expected an integer of at least 1"),
    ({"weight_decay": -1e-4}, "weight_decay=-0.0001; expected a number of at least 0"),
  ],
)
def test_numbers_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    optim.adaptive_kfac(**options)


def test_update_says_what_it_lacks():
  params = {"l": {"w": jnp.ones((2, 2))}}
  factors = optim.Factors(jnp.ones(()), {"l": {"inputs": jnp.eye(2), "outputs": jnp.eye(2)}})
  optimizer = optim.adaptive_kfac()
  with pytest.raises(TypeError, match="model=NoneType; expected what a function made by"):
    optimizer.update(params, optimizer.init(params), params, factors=factors, model=None)


@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
def test_what_another_optimiser_has_is_held_still_in_the_model(weight_decay):
  labels = {"layer_0": "kfac", "layer_1": {"w": "kfac", "b": "frozen"}}
  own = optim.adaptive_kfac(**{**OPTIONS, "weight_decay": weight_decay})
  optimizer = optax.partition({"kfac": own, "frozen": optax.set_to_zero()}, labels)
  evaluate = optim.value_grad_and_factors(tapped_mlp, LOSS)

  @quick_jit
  def step(params, state, key):
    result = evaluate(params, X, Y, key=key)
    extra = {"factors": result.factors, "model": result.model}
    return *optimizer.update(result.gradients, state, params, **extra), result.gradients

  params = mlp_params((4, 5, 3))
  state = optimizer.init(params)
  for key in jax.random.split(jax.random.key(0), 4):
    before = params
    updates, state, gradients = step(params, state, key)
    params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(updates["layer_1"]["b"], 0)
  decays = weight_decay * np.diag(is_weight(before))
  slope = flat(gradients) + decays @ flat(before)
  step, curvature = flat(updates), np.asarray(fisher_of()(before)) + decays
  expected = slope @ step + step @ curvature @ step / 2
  assert expected < 0
  np.testing.assert_allclose(optax.tree.get(state, "expected_change"), expected, rtol=1e-4)


def test_a_layer_of_another_optimiser_makes_the_loss_of_the_whole_network():
  params = mlp_params((4, 5, 3))
  model = optim.value_grad_and_factors(tapped_mlp, LOSS)(params, X, Y, key=jax.random.key(0)).model
  moved = {name: jax.tree.map(lambda p: p + 0.1, own) for name, own in params.items()}
  part = {"layer_0": moved["layer_0"], "layer_1": optax.MaskedNode()}
  whole = {"layer_0": moved["layer_0"], "layer_1": params["layer_1"]}
  np.testing.assert_allclose(model.loss_at(part), model.loss_at(whole), rtol=1e-12)
