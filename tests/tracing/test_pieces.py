"""Pieces of models that are read like simpler ones, one at a time."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import tatnet
from tatnet.network.lines import Dropout

KEY = jax.random.key(0)
F32 = jnp.float32
SQUARES = [jax.ShapeDtypeStruct((8, 8), F32)] * 3
ROWS = jax.ShapeDtypeStruct((4, 8), F32)


def test_what_stays_out_of_the_topology():
  def apply(w, x, activation):
    x = jax.lax.cond(True, lambda x: x @ w[0], activation, x)
    x = jax.lax.switch(1, [activation, lambda x: x, jnp.sort], x)
    x = 0.6 * x + 0.8 * activation(x) @ w[1]
    jnp.sort(x)  # computed, but no output depends on it
    return jax.nn.log_softmax(activation(x) @ w[2])

  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  assert tatnet.trace_apply(apply, SQUARES, ROWS) == block >> tatnet.nonlinear()


def test_parts_of_one_array_are_weights_of_their_own():
  def unrolled(w, x, activation):
    for i in range(3):
      x = activation(x @ w[i])
    return x

  def looped(w, x, activation):
    return jax.lax.fori_loop(0, 3, lambda i, x: activation(x @ w[i]), x)

  stack = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
  assert tatnet.trace_apply(unrolled, stack, ROWS) == tatnet.chain(3)
  assert tatnet.trace_apply(looped, stack, ROWS) == tatnet.chain(3)


def test_loops_over_examples_are_one_layer():
  def apply(w, x, activation):
    return jax.lax.map(lambda row: activation(row @ w[0]), x) @ w[1]

  assert tatnet.trace_apply(apply, SQUARES, ROWS) == tatnet.chain(1)


@pytest.mark.parametrize(
  "pool",
  [
    lambda x: x.mean((1, 2)),
    lambda x: x.mean(1).mean(1),
    lambda x: x.mean(1, keepdims=True).mean((1, 2)),
    lambda x: x.sum(1).mean(1) / 6,
    lambda x: hk.avg_pool(x, (3, 3, 1), (3, 3, 1), "VALID").reshape(4, -1),
  ],
)
def test_average_pooling_in_any_form(pool):
  def forward(x, activation):
    return activation(hk.Linear(3)(pool(activation(hk.Linear(8)(x)))))

  with pytest.warns(tatnet.TopologyWarning, match="averaging between nonlinear layers"):
    topology = tatnet.trace(forward, jax.ShapeDtypeStruct((4, 6, 6, 8), F32))
  assert topology == tatnet.chain(2)


def test_flags_among_the_inputs_stay_flags():
  def forward(x, deep, activation):
    x = activation(hk.Linear(8)(x))
    return activation(hk.Linear(8)(x)) if deep else x

  assert tatnet.trace(forward, ROWS, True) == tatnet.chain(2)
  assert tatnet.trace(forward, ROWS, False) == tatnet.chain(1)


def test_a_dropout_module_of_equinox():
  model = eqx.nn.Sequential(
    [
      eqx.nn.Linear(8, 8, use_bias=False, key=KEY),
      eqx.nn.Lambda(tatnet.placeholder),
      eqx.nn.Dropout(0.3),
      eqx.nn.Linear(8, 8, use_bias=False, key=KEY),
      eqx.nn.Lambda(tatnet.placeholder),
    ]
  )

  def apply(model, x):
    return jax.vmap(lambda x, key: model(x, key=key))(x, jax.random.split(KEY, len(x)))

  with pytest.warns(tatnet.TopologyWarning, match=r"q = 1\.4286.*rate 0\.3"):
    topology = tatnet.trace_apply(apply, model, ROWS)
  layer = tatnet.nonlinear()
  assert topology == tatnet.sequence(layer, Dropout(0.7), layer)


def test_probabilities_at_the_output_are_no_layer():
  def forward(x, activation):
    return jax.nn.softmax(hk.Linear(3)(activation(hk.Linear(8)(x))))

  assert tatnet.trace(forward, ROWS) == tatnet.chain(1)
