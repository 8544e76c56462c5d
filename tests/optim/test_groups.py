"""Layers of one shape are kept together, and are what they would be by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_factors, random_like

from tatnet import optim

PARAMS = {
  "last": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)},
  "dense_2": {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)},
  "dense_10": {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)},
  "window": {"w": jnp.zeros((2, 2, 3)), "b": jnp.zeros(3)},  # a kernel of as many inputs
  "plain": {"w": jnp.zeros((4, 3))},
  "norm_1": {"scale": jnp.zeros(3), "offset": jnp.zeros(3)},
  "norm_2": {"scale": jnp.zeros(3), "offset": jnp.zeros(3)},
}
OPTIONS = {"damping": 0.1, "burn_in": 1, "inverse_every": 1}


def run(params, gradients, factors, **options):
  optimizer = optim.scale_by_kfac(**OPTIONS, **options)
  update = quick_jit(lambda state, f: optimizer.update(gradients, state, factors=f))
  state = optimizer.init(params)
  for f in factors:
    steps, state = update(state, f)
  return steps, state


def batches():
  return [random_factors(PARAMS, np.random.default_rng(seed)) for seed in (1, 2)]


def assert_close(a, b):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


def test_state_has_one_array_for_a_shape():
  curvature = optim.kfac(1e-3).init(PARAMS)[0].curvature
  assert set(curvature) == {"dense_10 and 2 like it", "last", "norm_1 and 1 like it", "plain"}
  assert curvature["dense_10 and 2 like it"]["inputs"].shape == (3, 5, 6)
  assert curvature["last"]["inputs"].shape == (4, 5)


def test_layers_kept_together_are_updated_as_each_by_itself():
  gradients = random_like(PARAMS, np.random.default_rng(0))
  together, state = run(PARAMS, gradients, batches())
  curvature = optim.curvature_by_layer(state, PARAMS)
  for name in PARAMS:
    one = [f._replace(layers={name: f.layers[name]}) for f in batches()]
    alone, of_one = run({name: PARAMS[name]}, {name: gradients[name]}, one)
    assert_close(together[name], alone[name])
    assert_close(curvature[name], of_one.curvature[name])


def test_order_of_the_layers_does_not_matter():
  gradients = random_like(PARAMS, np.random.default_rng(0))
  straight, _ = run(PARAMS, gradients, batches())
  turned = {name: PARAMS[name] for name in reversed(PARAMS)}
  again, _ = run(turned, gradients, batches())
  assert_close(straight, again)


@pytest.mark.parametrize("missing", [("dense_2",), ("dense_2", "dense_10", "window"), ("norm_2",)])
def test_layers_without_factors_pass_and_do_not_touch_those_of_their_shape(missing):
  gradients = random_like(PARAMS, np.random.default_rng(0))
  without = [
    f._replace(layers={name: f.layers[name] for name in f.layers if name not in missing})
    for f in batches()
  ]
  expected, _ = run(PARAMS, gradients, batches())
  found, _ = run(PARAMS, gradients, without, uncovered="identity")
  assert_close(found, expected | {name: gradients[name] for name in missing})


def test_curvature_of_other_parameters_is_refused():
  state = optim.kfac(1e-3).init(PARAMS)
  with pytest.raises(ValueError, match="the parameters have layers"):
    optim.curvature_by_layer(state, {"other": {"w": jnp.ones((2, 2))}})
