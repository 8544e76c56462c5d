"""Sides too large for a dense moment: diagonals, which are never made from a dense one."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_references import as_matrix, kronecker_update, quick_jit, random_params

from tatnet import optim

BATCH, LIMIT = 6, 5
IDS = np.random.default_rng(0).integers(0, 7, (BATCH, 3))
X = np.random.default_rng(1).normal(size=(BATCH, 5, 4, 2))


def turned(x):
  layer = hk.Linear(7, name="layer")
  return hk.Linear(2, name="last")(layer(jnp.tanh(layer(x))))


# Sides of 5 and less are dense: of these the last one of each.
MODELS = {
  "outputs": (lambda x: hk.Linear(6)(hk.Linear(3)(x)), X[:, 0]),
  "inputs": (lambda x: hk.Linear(2)(jnp.tanh(hk.Linear(6)(x))), X[:, 0]),
  "both": (lambda x: hk.Linear(7, with_bias=False)(hk.Linear(6)(x)), X[:, 0]),
  "convolution": (lambda x: hk.Linear(3)(hk.Conv2D(4, 3)(x)), X),
  "strided": (lambda x: hk.Conv2D(6, (1, 2), stride=2, with_bias=False)(x), X),
  "table": (lambda ids: hk.Embed(9, 6)(ids), IDS),
  "reused": (turned, np.random.default_rng(2).normal(size=(BATCH, 7))),
  "stack": (
    lambda x: hk.experimental.layer_stack(2)(lambda x: jnp.tanh(hk.Linear(6)(x)))(x),
    np.random.default_rng(3).normal(size=(BATCH, 6)),
  ),
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def evaluated(name, limit, sharing="reduce"):
  model, x = MODELS[name]
  network = hk.transform(model)
  params = jax.tree.map(lambda p: p.astype(float), random_params(network, x))
  shape = jax.eval_shape(network.apply, params, None, x).shape
  targets = np.random.default_rng(4).normal(size=shape)
  evaluate = optim.value_grad_and_factors(
    network, optim.SquaredError(), curvature="empirical", sharing=sharing, dense_up_to=limit
  )
  return params, quick_jit(evaluate)(params, x, targets)


def sizes(layer):
  """Of the sides, the bias's 1 left out."""
  weight = next(a for key, a in layer.items() if key != "b")
  return {"inputs": int(np.prod(weight.shape[:-1])), "outputs": weight.shape[-1]}


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("name", MODELS)
def test_factors_of_large_sides_are_the_diagonals_of_the_dense_ones(name, sharing):
  params, dense = evaluated(name, None, sharing)
  _, found = evaluated(name, LIMIT, sharing)
  for layer, sides in dense.factors.layers.items():
    for side, expected in sides.items():
      is_table = "embeddings" in params[layer] and side == "inputs"
      if sizes(params[layer])[side] > LIMIT and not is_table:
        expected = np.diagonal(expected, axis1=-2, axis2=-1)
      np.testing.assert_allclose(found.factors.layers[layer][side], expected, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "stack"])
def test_update_is_the_inverse_of_a_diagonal_times_a_dense_matrix(name):
  params, dense = evaluated(name, None)
  _, result = evaluated(name, LIMIT)
  optimizer = optim.scale_by_kfac(0.02, burn_in=0, dense_up_to=LIMIT)
  updates, _ = quick_jit(
    lambda result: optimizer.update(
      result.gradients, optimizer.init(params), factors=result.factors
    )
  )(result)

  def matrix(layer):
    return as_matrix({"w": layer["embeddings"]} if "embeddings" in layer else layer)

  for layer, gradients in result.gradients.items():
    kept = {}
    for side, moment in dense.factors.layers[layer].items():
      whole = np.diag(moment) if moment.ndim == 1 else np.asarray(moment)
      is_large = sizes(params[layer])[side] > LIMIT
      kept[side] = np.diag(np.diag(whole)) if is_large else whole
    expected = kronecker_update(matrix(gradients), kept["inputs"], kept["outputs"], 0.02)
    np.testing.assert_allclose(matrix(updates[layer]), expected, rtol=1e-9, atol=1e-13)


def test_stacked_layers_are_updated_as_each_by_itself():
  params, result = evaluated("stack", LIMIT)
  (name,) = params

  def update(gradients, factors):
    optimizer = optim.scale_by_kfac(0.02, burn_in=0, dense_up_to=LIMIT)
    return optimizer.update(gradients, optimizer.init(gradients), factors=factors)[0]

  together = update(result.gradients, result.factors)[name]
  one = jax.tree.map(lambda a: a[1], (result.gradients[name], result.factors.layers[name]))
  alone = update({"one": one[0]}, result.factors._replace(layers={"one": one[1]}))["one"]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-12, atol=1e-14), together, alone
  )


# A layer whose outputs are a diagonal, and one whose inputs are.
@pytest.mark.parametrize(("name", "layer"), [("both", "linear_1"), ("inputs", "linear")])
@pytest.mark.parametrize("frozen", ["w", "b"])
def test_part_of_a_layer_with_large_sides_may_be_another_optimisers(name, layer, frozen):
  params, result = evaluated(name, LIMIT)
  labels = {name: dict.fromkeys(arrays, "kfac") for name, arrays in params.items()}
  labels[layer][frozen] = "rest"
  own = optim.scale_by_kfac(0.02, burn_in=0, dense_up_to=LIMIT)
  optimizer = optax.partition({"kfac": own, "rest": optax.set_to_zero()}, labels)
  updates, _ = quick_jit(
    lambda result: optimizer.update(
      result.gradients, optimizer.init(params), params, factors=result.factors
    )
  )(result)
  a, g = (
    np.diag(moment) if moment.ndim == 1 else np.asarray(moment)
    for moment in map(result.factors.layers[layer].get, ("inputs", "outputs"))
  )
  kept, trained = (slice(-1, None), "b") if frozen == "w" else (slice(None, -1), "w")
  gradient = np.reshape(result.gradients[layer][trained], (-1, len(g)))
  expected = kronecker_update(gradient, a[kept, kept], g, 0.02)
  found = np.reshape(updates[layer][trained], gradient.shape)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_no_dense_moment_of_a_large_side_is_made():
  size = 3000
  network = hk.transform(lambda ids: hk.Linear(size)(hk.Embed(size, 4)(ids)))
  params = jax.eval_shape(network.init, jax.random.key(0), IDS)
  optimizer = optim.kfac(1e-3, dense_up_to=1000)
  evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy(), dense_up_to=1000)

  def step(params, state, key):
    result = evaluate(params, IDS, IDS, key=key)
    return optimizer.update(result.gradients, state, params, factors=result.factors)

  state = jax.eval_shape(optimizer.init, params)
  program = str(jax.make_jaxpr(step)(params, state, jax.eval_shape(jax.random.key, 0)))
  assert "3000,4" in program
  assert "3000,300" not in program  # neither a moment nor a pair of moment and inverse


def test_adaptive_steps_take_large_sides():
  network, x = hk.transform(MODELS["outputs"][0]), MODELS["outputs"][1].mean(1)
  params = random_params(network, x)
  evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy(), dense_up_to=LIMIT)
  optimizer = optim.adaptive_kfac(burn_in=1, dense_up_to=LIMIT)

  @quick_jit
  def step(params, state, key):
    result = evaluate(params, x, np.arange(BATCH), key=key)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )
    return optax.apply_updates(params, updates), state, result.loss

  state, losses = optimizer.init(params), []
  for key in jax.random.split(jax.random.key(0), 12):
    params, state, loss = step(params, state, key)
    losses.append(float(loss))
  assert losses[-1] < losses[0] / 2


def test_another_limit_in_the_optimiser_is_refused_by_name():
  params, result = evaluated("both", LIMIT)
  optimizer = optim.scale_by_kfac()
  with pytest.raises(ValueError, match=r"linear: factors of shapes(?s:.*)the same dense_up_to"):
    optimizer.update(result.gradients, optimizer.init(params), factors=result.factors)


@pytest.mark.parametrize(
  ("limit", "error"),
  [(-1, ValueError), (2.5, TypeError), ("8192", TypeError), (True, TypeError)],
)
def test_limits_that_are_none_are_refused(limit, error):
  for function in (
    lambda: optim.scale_by_kfac(dense_up_to=limit),
    lambda: optim.value_grad_and_factors(turned, optim.SquaredError(), dense_up_to=limit),
  ):
    with pytest.raises(error, match=r"dense_up_to=.*expected an integer of at least 0"):
      function()


def test_limit_stays_a_number_where_hyperparameters_are_injected():
  params = {"l": {"w": jnp.ones((3, 9))}}
  state = optax.inject_hyperparams(optim.kfac)(0.1).init(params)  # the default is none
  assert "dense_up_to" not in state.hyperparams
  with pytest.raises(TypeError, match="among static_args"):
    optax.inject_hyperparams(optim.kfac)(0.1, dense_up_to=5).init(params)
  make = optax.inject_hyperparams(optim.kfac, static_args="dense_up_to")
  curvature = make(0.1, dense_up_to=5).init(params).inner_state[0].curvature["l"]
  assert {side: a.shape for side, a in curvature.items()} == {"inputs": (3, 4), "outputs": (9,)}
