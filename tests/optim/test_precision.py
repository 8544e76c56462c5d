"""Half precision: curvature is kept in 32 bits, whatever models compute in and hold."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest
from kfac_references import quick_jit, random_factors, random_like, random_params

from tatnet import optim

X = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 16)


class Network(hk.Module):
  def __call__(self, x):
    x = jnp.tanh(hk.Conv2D(8, 3, stride=2)(x))
    x = hk.LayerNorm(-1, True, True)(x).mean(axis=(1, 2))
    return hk.Linear(4)(jnp.tanh(hk.Linear(8)(x)))


NETWORK = hk.transform(lambda x: Network()(x))


def evaluated(policy=None, sharing="reduce"):
  params = random_params(NETWORK, X)
  evaluate = optim.value_grad_and_factors(
    NETWORK, optim.SoftmaxCrossEntropy(), curvature="empirical", sharing=sharing
  )
  if policy is None:
    return quick_jit(evaluate)(params, X, Y)
  with hk.mixed_precision.push_policy(Network, jmp.get_policy(policy)):
    return quick_jit(evaluate)(params, X, Y)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_factors_of_a_model_that_computes_in_half_precision(sharing):
  full = evaluated(sharing=sharing)
  half = evaluated("params=float32,compute=bfloat16,output=float32", sharing)
  assert {f.dtype for f in jax.tree.leaves(half.factors)} == {jnp.dtype(jnp.float32)}
  assert {g.dtype for g in jax.tree.leaves(half.gradients)} == {jnp.dtype(jnp.float32)}
  assert np.abs(half.outputs - full.outputs).max() > 1e-4  # it does compute in half precision

  def assert_close(half, full):
    # Signals and gradients have 8 bits; sums over them have 24.
    assert np.abs(half - full).max() < 0.05 * np.abs(full).max()

  jax.tree.map(assert_close, half.factors.layers, full.factors.layers)


def test_moment_of_half_precision_inputs_has_no_negative_eigenvalues():
  # The border, for the bias, must be rounded no more than the rest.
  def forward(params, taps, observer, x):
    layer = params["l"]
    return observer.dense(x.astype(jnp.bfloat16), layer["w"], layer["b"], taps["l"]).astype(float)

  x = 1.37 + 0.001 * np.random.default_rng(0).normal(size=(333, 2))
  params = {"l": {"w": jnp.ones((2, 1), jnp.bfloat16), "b": jnp.ones(1, jnp.bfloat16)}}
  evaluate = optim.value_grad_and_factors(forward, optim.SquaredError(), curvature="empirical")
  found = quick_jit(evaluate)(params, x.astype(np.float32), jnp.zeros((333, 1))).factors.layers["l"]
  assert np.linalg.eigvalsh(np.asarray(found["inputs"], float)).min() > -1e-5


def test_half_precision_parameters_have_full_precision_curvature():
  full = {"dense": {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}, "norm": {"scale": jnp.zeros(3)}}
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), full)
  rng = np.random.default_rng(0)
  factors, gradients = random_factors(full, rng), random_like(half, rng)
  optimizer = optim.scale_by_kfac(0.1, burn_in=0, norm_constraint=1e-3, learning_rate=0.1)
  update = quick_jit(lambda g, s: optimizer.update(g, s, factors=factors))
  updates, state = update(gradients, optimizer.init(half))
  wide = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
  expected, _ = update(wide, optimizer.init(full))
  assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
  assert {c.dtype for c in jax.tree.leaves(state.curvature)} == {jnp.dtype(jnp.float32)}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.02), updates, expected
  )


def test_factors_of_half_precision_parameters_are_kept_in_full_precision():
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), random_params(NETWORK, X))
  evaluate = optim.value_grad_and_factors(NETWORK, optim.SoftmaxCrossEntropy())
  found = jax.eval_shape(
    lambda p: evaluate(p, X.astype(jnp.bfloat16), Y, key=jax.random.key(0)), params
  )
  assert {f.dtype for f in jax.tree.leaves(found.factors)} == {jnp.dtype(jnp.float32)}
  assert {g.dtype for g in jax.tree.leaves(found.gradients)} == {jnp.dtype(jnp.bfloat16)}
