"""Updates against the inverse of the damped Kronecker product as a dense matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import as_matrix, kronecker_update, quick_jit, random_factors, random_like

from tatnet import optim

LAYERS = {
  "dense": {"w": (4, 3), "b": (3,)},
  "dense_without_bias": {"w": (5, 2)},
  "wide": {"w": (2, 6), "b": (6,)},
  "convolution": {"w": (3, 2, 2, 3), "b": (3,)},
  "convolution_without_bias": {"w": (1, 2, 3, 4)},
  "norm": {"scale": (4,), "offset": (4,)},
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def zeros(dtype, layers=LAYERS):
  return {
    name: {key: jnp.zeros(shape, dtype) for key, shape in arrays.items()}
    for name, arrays in layers.items()
  }


@functools.cache
def compiled_update(damping):
  optimizer = optim.scale_by_kfac(damping, burn_in=0)

  @quick_jit
  def update(gradients, factors):
    return optimizer.update(gradients, optimizer.init(gradients), factors=factors)[0]

  return update


def first_update(gradients, factors, damping=0.02):
  return compiled_update(damping)(gradients, factors)


@pytest.mark.parametrize("damping", [1e-3, 0.5])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_updates_are_the_dense_inverse_times_the_gradients(dtype, damping):
  rng = np.random.default_rng(0)
  with jax.enable_x64(dtype == "float64"):
    gradients = random_like(zeros(dtype), rng)
    factors = random_factors(gradients, rng)
    updates = first_update(gradients, factors, damping)
  for name, layer in updates.items():
    assert {key: a.shape for key, a in layer.items()} == LAYERS[name]
    assert {str(a.dtype) for a in layer.values()} == {dtype}
    own = factors.layers[name]
    if name == "norm":
      continue
    expected = kronecker_update(as_matrix(gradients[name]), own["inputs"], own["outputs"], damping)
    error = np.abs(as_matrix(layer) - expected).max()
    assert error < TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_moved_from_one_side_to_the_other_changes_nothing(scale):
  rng = np.random.default_rng(0)
  gradients = random_like(zeros("float32", {"dense": LAYERS["dense"]}), rng)
  factors = random_factors(gradients, rng)
  sides = factors.layers["dense"]
  moved = {"dense": {"inputs": sides["inputs"] * scale, "outputs": sides["outputs"] / scale}}
  updates = [first_update(gradients, f) for f in (factors, factors._replace(layers=moved))]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), *updates)


def test_directions_without_curvature_are_gradient_descent_over_the_damping():
  gradients = random_like(zeros("float32", {"dense": LAYERS["dense"]}), np.random.default_rng(0))
  factors = random_factors(gradients, np.random.default_rng(1))
  nothing = jax.tree.map(jnp.zeros_like, factors.layers)
  updates = first_update(gradients, factors._replace(layers=nothing))
  expected = jax.tree.map(lambda g: g / 0.02, gradients)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_layers_without_gradients_move_as_the_damping_says(size):
  # Behind a last layer of zeros, gradients are zero at initialisation: the ratio of
  # the two sides has no bound, and overflows if it is taken as it stands.
  gradients = random_like(zeros("float32", {"dense": LAYERS["dense"]}), np.random.default_rng(0))
  factors = random_factors(gradients, np.random.default_rng(1))
  sides = factors.layers["dense"]
  behind_zeros = {"dense": {"inputs": size * sides["inputs"], "outputs": 0 * sides["outputs"]}}
  updates = first_update(gradients, factors._replace(layers=behind_zeros))
  expected = jax.tree.map(lambda g: g / 0.02, gradients)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, expected)
