"""Embeddings: frequencies of the rows times the outputs' moment."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import kronecker_update, outputs_factor, quick_jit, random_params

from tatnet import optim

BATCH, LENGTH, ROWS, WIDTH = 6, 3, 5, 4
IDS = np.array([[0, 0, 1], [2, 1, 1], [0, 2, 2], [0, 0, 0], [1, 2, 0], [2, 2, 2]])  # never 3 or 4
TARGETS = np.random.default_rng(0).normal(size=(BATCH, LENGTH, WIDTH))


def haiku_table(**options):
  return hk.transform(lambda ids: hk.Embed(ROWS, WIDTH, name="table", **options)(ids))


def plain_table(params, taps, observer, ids):
  return observer.embedding(ids, params["table"]["embeddings"], taps["table"])


MODELS = {
  "haiku": haiku_table(),
  "one-hot": haiku_table(lookup_style="ONE_HOT"),
  "plain": plain_table,
}


def evaluated(model, sharing="reduce"):
  params = random_params(MODELS["haiku"], IDS)
  params = jax.tree.map(lambda p: p.astype(float), params)  # hk.Embed asks for 32 bits
  evaluate = optim.value_grad_and_factors(
    model, optim.SquaredError(), curvature="empirical", sharing=sharing
  )
  return params, quick_jit(evaluate)(params, IDS, TARGETS)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("model", MODELS)
def test_factors_are_frequencies_and_the_moment_of_the_gradients(model, sharing):
  with jax.enable_x64(True):
    params, result = evaluated(MODELS[model], sharing)
  found = result.factors.layers["table"]
  counts = [np.sum(row == IDS) / BATCH for row in range(ROWS)]
  np.testing.assert_allclose(found["inputs"], counts, atol=1e-14)
  # Every token of an example is a location; a mean of one-hot vectors would not be diagonal.
  g = np.asarray(params["table"]["embeddings"])[IDS] - TARGETS
  np.testing.assert_allclose(found["outputs"], outputs_factor(g, "expand"), atol=1e-14)


def test_frequencies_are_the_input_moment_of_a_dense_layer_on_one_hot_vectors():
  def dense(params, taps, observer, ids):
    one_hot = jax.nn.one_hot(ids, ROWS)
    return observer.dense(one_hot, params["table"]["w"], None, taps["table"])

  with jax.enable_x64(True):
    params, result = evaluated(MODELS["haiku"])
    evaluate = optim.value_grad_and_factors(
      dense, optim.SquaredError(), curvature="empirical", sharing="expand"
    )
    as_dense = quick_jit(evaluate)({"table": {"w": params["table"]["embeddings"]}}, IDS, TARGETS)
  ours, dense = result.factors.layers["table"], as_dense.factors.layers["table"]
  np.testing.assert_allclose(np.diag(ours["inputs"]), dense["inputs"], atol=1e-14)
  np.testing.assert_allclose(ours["outputs"], dense["outputs"], atol=1e-14)


def test_update_is_the_gradient_times_the_inverse_of_the_dense_matrix():
  optimizer = optim.scale_by_kfac(damping=0.02, burn_in=0)
  with jax.enable_x64(True):
    params, result = evaluated(MODELS["haiku"])
    updates, _ = quick_jit(
      lambda result: optimizer.update(
        result.gradients, optimizer.init(params), factors=result.factors
      )
    )(result)
  factors = result.factors.layers["table"]
  gradient = np.asarray(result.gradients["table"]["embeddings"])
  assert np.all(gradient[3:] == 0)
  expected = kronecker_update(gradient, np.diag(factors["inputs"]), factors["outputs"], 0.02)
  np.testing.assert_allclose(updates["table"]["embeddings"], expected, rtol=1e-10, atol=1e-14)


def test_factors_of_zero_leave_the_damping_alone():
  params, result = evaluated(MODELS["haiku"])
  optimizer = optim.scale_by_kfac(damping=1e-3, burn_in=0)
  zeros = jax.tree.map(jnp.zeros_like, result.factors)._replace(weight=jnp.ones(()))
  updates, state = quick_jit(
    lambda gradients: optimizer.update(gradients, optimizer.init(params), factors=zeros)
  )(result.gradients)
  expected = np.asarray(result.gradients["table"]["embeddings"]) / 1e-3
  np.testing.assert_allclose(updates["table"]["embeddings"], expected, rtol=1e-4)
  assert int(state.skipped) == 0
