"""Scales and offsets: factors are the diagonal of the empirical Fisher matrix."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_params

from tatnet import optim

BOTH = {"create_scale": True, "create_offset": True}
MODULES = {
  "layer": lambda: hk.LayerNorm(-1, **BOTH),
  "layer, all axes": lambda: hk.LayerNorm((1, 2), **BOTH, param_axis=-1),
  "layer, several parameter axes": lambda: hk.LayerNorm((1, 2), **BOTH, param_axis=(1, 2)),
  "scale only": lambda: hk.LayerNorm(-1, True, False),
  "offset only": lambda: hk.LayerNorm(-1, False, True),
  "rms": lambda: hk.RMSNorm(-1),
  "group": lambda: hk.GroupNorm(2, **BOTH),
  "instance": lambda: hk.InstanceNorm(**BOTH),
  # Outside training: there, examples would depend on each other.
  "batch": lambda: lambda x: hk.BatchNorm(decay_rate=0.9, **BOTH)(x, is_training=hk.running_init()),
}


def data(batch=5):
  rng = np.random.default_rng(0)
  return rng.normal(size=(batch, 3, 4)), rng.normal(size=(batch, 3, 4))


def per_example_squares(network, params, state, x, y):
  def loss(params, x, y):
    outputs, _ = network.apply(params, state, None, x[None])
    return jnp.square(outputs - y[None]).sum() / 2

  gradients = quick_jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(params, x, y)
  return jax.tree.map(lambda g: np.square(g).mean(axis=0), gradients)


@pytest.mark.parametrize("name", MODULES)
def test_factors_are_mean_squares_of_the_gradients_of_single_examples(name):
  network = hk.transform_with_state(lambda x: MODULES[name]()(x))
  with jax.enable_x64(True):
    x, y = data()
    params, state = random_params(network, x)
    evaluate = optim.value_grad_and_factors(network, optim.SquaredError(), curvature="empirical")
    found = quick_jit(evaluate)(params, x, y, state=state).factors.layers
    expected = per_example_squares(network, params, state, x, y)
  assert set(found) == set(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)


def test_observer_has_the_same_factors_in_a_plain_function():
  def forward(params, taps, observer, x):
    layer = params["norm"]
    return observer.scale_and_offset(x, layer["scale"], layer["offset"], taps["norm"])

  x, y = data()
  rng = np.random.default_rng(1)
  scale, offset = rng.normal(size=4), rng.normal(size=4)
  with jax.enable_x64(True):
    params = {"norm": {"scale": jnp.asarray(scale), "offset": jnp.asarray(offset)}}
    evaluate = optim.value_grad_and_factors(forward, optim.SquaredError(), curvature="empirical")
    found = quick_jit(evaluate)(params, x, y).factors.layers["norm"]
  g = scale * x + offset - y
  np.testing.assert_allclose(found["offset"], np.square(g.sum(axis=1)).mean(axis=0), rtol=1e-12)
  np.testing.assert_allclose(
    found["scale"], np.square((g * x).sum(axis=1)).mean(axis=0), rtol=1e-12
  )


def test_rows_of_a_flattened_batch_are_locations_of_their_examples():
  x, y = (a.astype(np.float32) for a in data())
  norm = MODULES["layer"]
  shaped = hk.transform(lambda x: norm()(x))
  flattened = hk.transform(lambda x: norm()(x.reshape(-1, 4)).reshape(x.shape))
  params = random_params(shaped, x)
  found = [
    quick_jit(optim.value_grad_and_factors(network, optim.SquaredError(), curvature="empirical"))(
      params, x, y
    ).factors
    for network in (shaped, flattened)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), *found)


def test_update_divides_by_the_damped_diagonal():
  network = hk.transform(lambda x: MODULES["layer"]()(x))
  x, y = (a.astype(np.float32) for a in data())
  params = random_params(network, x)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError(), curvature="empirical")
  optimizer = optim.scale_by_kfac(damping=0.05, burn_in=0)

  @quick_jit
  def step(params):
    result = evaluate(params, x, y)
    return result, optimizer.update(
      result.gradients, optimizer.init(params), factors=result.factors
    )[0]

  result, updates = step(params)
  expected = jax.tree.map(lambda g, f: g / (f + 0.05), result.gradients, result.factors.layers)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
