"""Attention's projections under K-FAC: keys, which have no gradient at the start."""

import functools

import jax
import jax.numpy as jnp
import pytest

import tatnet
from tatnet import optim

IDS = jax.random.randint(jax.random.key(0), (16, 8), 0, 11)


@functools.cache
def outputs_factors(query_scale, sharing):
  """The output gradients' moments of the first block's attention, and those of the gradients."""
  network = tatnet.nets.create(
    "transformer",
    11,
    depth=1,
    width=16,
    heads=2,
    context=8,
    query_scale=query_scale,
    method=tatnet.TAT(0.3),
  )
  evaluate = optim.value_grad_and_factors(
    network,
    optim.MeanOverLocations(optim.SoftmaxCrossEntropy()),
    sharing=sharing,
    uncovered="identity",
  )

  def both(key):
    params, _ = network.init(key, IDS)
    result = evaluate(params, IDS, IDS, key=key)
    return result.factors.layers, result.gradients

  layers, grads = jax.jit(both)(jax.random.key(1))
  names = {n: f"transformer/block_1/attention/{n}" for n in ("query", "key", "value", "output")}
  factors = {n: float(jnp.abs(layers[name]["outputs"]).max()) for n, name in names.items()}
  return factors, {n: float(jnp.abs(grads[name]["w"]).max()) for n, name in names.items()}


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_keys_have_no_factor_while_queries_are_zero(sharing):
  factors, grads = outputs_factors(0.0, sharing)
  assert factors["key"] == grads["key"] == 0
  assert min(factors[n] for n in ("query", "value", "output")) > 1e-5


def test_small_queries_give_keys_a_factor_of_their_square():
  factors, grads = outputs_factors(0.1, "expand")
  smaller, _ = outputs_factors(0.01, "expand")
  assert grads["key"] > 0
  assert factors["key"] / smaller["key"] == pytest.approx(100, rel=0.3)


def test_summed_over_tokens_keys_have_none_at_all():
  """A softmax does not change where all keys move alike: gradients of keys add up to 0."""
  factors, grads = outputs_factors(0.1, "reduce")
  assert grads["key"] > 1e-6
  assert factors["key"] < 1e-9 * factors["value"]
