"""The natural gradient does not depend on the coordinates of a layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from kfac_references import mlp_params, quick_jit, tapped_mlp

from tatnet import optim

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)
MIXING, SHIFT = RNG.normal(size=(3, 3)) + 2 * np.eye(3), RNG.normal(size=3)


def change_of_first_layer(params, x, damping):
  """What one update of the first layer does to its outputs."""
  evaluate = optim.value_grad_and_factors(
    tapped_mlp, optim.SoftmaxCrossEntropy(), curvature="empirical"
  )
  optimizer = optim.scale_by_kfac(damping, burn_in=0)

  def updates(params):
    result = evaluate(params, x, Y)
    return optimizer.update(result.gradients, optimizer.init(params), factors=result.factors)[0]

  layer = quick_jit(updates)(params)["layer_0"]
  return x @ layer["w"] + layer["b"]


def changes(damping):
  """In given coordinates of the inputs, and in affinely transformed ones, of one function."""
  with jax.enable_x64(True):
    params = mlp_params((3, 4, 3))
    first = params["layer_0"]
    w = np.linalg.solve(MIXING, np.asarray(first["w"]))
    moved = {**params, "layer_0": {"w": jnp.asarray(w), "b": first["b"] - SHIFT @ w}}
    mixed = X @ MIXING + SHIFT
    np.testing.assert_allclose(
      tapped_mlp_outputs(params, X), tapped_mlp_outputs(moved, mixed), atol=1e-12
    )
    return [
      np.asarray(change_of_first_layer(params, jnp.asarray(X), damping)),
      np.asarray(change_of_first_layer(moved, jnp.asarray(mixed), damping)),
    ]


def tapped_mlp_outputs(params, x):
  hidden = np.tanh(x @ np.asarray(params["layer_0"]["w"]) + np.asarray(params["layer_0"]["b"]))
  return hidden @ np.asarray(params["layer_1"]["w"]) + np.asarray(params["layer_1"]["b"])


def test_update_does_the_same_in_other_coordinates_of_the_inputs():
  given, mixed = changes(damping=1e-16)
  assert np.abs(given).max() > 0.1
  np.testing.assert_allclose(mixed, given, atol=1e-5 * np.abs(given).max())


def test_damping_breaks_the_invariance():
  # Else the test above would show nothing.
  given, mixed = changes(damping=1e-2)
  assert np.abs(mixed - given).max() > 0.01 * np.abs(given).max()


@dataclasses.dataclass(frozen=True)
class Orthonormal(optim.SquaredError):
  """Its sampled gradients have exactly the identity as their moment, which is their expectation."""

  def hessian_root(self, outputs, noise):
    return np.sqrt(len(outputs)) * jnp.linalg.qr(noise)[0]


def test_one_undamped_step_solves_least_squares():
  def forward(params, taps, observer, x):
    return observer.dense(x, params["l"]["w"], params["l"]["b"], taps["l"])

  optimizer = optim.scale_by_kfac(1e-16, burn_in=0)
  with jax.enable_x64(True):
    params = {"l": {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}}
    y = RNG.normal(size=(40, 2))
    evaluate = optim.value_grad_and_factors(forward, Orthonormal(), curvature="gauss-newton")

    @quick_jit
    def step(params):
      result = evaluate(params, X, y, key=jax.random.key(0))
      return optimizer.update(result.gradients, optimizer.init(params), factors=result.factors)[0]

    layer = step(params)["l"]
  solution = np.linalg.lstsq(np.concatenate([X, np.ones((40, 1))], axis=1), y, rcond=None)[0]
  np.testing.assert_allclose(-layer["w"], solution[:-1], rtol=1e-5)
  np.testing.assert_allclose(-layer["b"], solution[-1], rtol=1e-5)
