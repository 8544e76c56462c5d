"""Layers stacked by `nn.scan`, `nnx.scan` or `eqx.filter_vmap`: refused by name, never by accident."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tatnet import optim
from tatnet.optim.layers import as_layers

X, LABELS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.arange(6) % 3
LAYERS = {
  "dense": (lambda: nn.Dense(4), lambda rngs: nnx.Linear(4, 4, rngs=rngs), eqx.nn.Linear),
  "no bias": (
    lambda: nn.Dense(4, use_bias=False),
    lambda rngs: nnx.Linear(4, 4, use_bias=False, rngs=rngs),
    lambda *sizes, key: eqx.nn.Linear(*sizes, use_bias=False, key=key),
  ),
  "norm": (
    nn.LayerNorm,
    lambda rngs: nnx.LayerNorm(4, rngs=rngs),
    lambda size, _, key: eqx.nn.LayerNorm(size),
  ),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def assert_refused(model, params, name):
  evaluate = optim.value_grad_and_factors(model, optim.SoftmaxCrossEntropy())
  with pytest.raises(ValueError, match=rf"{name}/\w+  \(the layer has weights of the shape \(.*\)"):
    jax.eval_shape(lambda p: evaluate(p, X, LABELS, key=jax.random.key(0)).loss, params)


@every_layer
def test_scanned_layers_of_linen(kind):
  class Turn(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return jnp.tanh(LAYERS[kind][0]()(x)), None

  class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
      turns = nn.scan(Turn, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
      return nn.Dense(3)(turns(name="turns")(x, None)[0])

  assert_refused(Model(), Model().init(jax.random.key(0), X)["params"], r"turns/\w+_0")


@every_layer
def test_scanned_layers_of_nnx(kind):
  class Model(nnx.Module):
    def __init__(self, rngs):
      @nnx.split_rngs(splits=2)
      @nnx.vmap
      def made(rngs):
        return LAYERS[kind][1](rngs)

      self.turns = made(rngs)
      self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
      turn = nnx.scan(
        lambda x, layer: jnp.tanh(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
      )
      return self.last(turn(x, self.turns))

  model = Model(nnx.Rngs(0))
  assert_refused(model, nnx.state(model, nnx.Param), "turns")


class Stacked(eqx.Module):
  turns: eqx.Module
  last: eqx.nn.Linear
  is_scanned: bool

  def __init__(self, make, is_scanned):
    keys = jax.random.split(jax.random.key(0))
    self.turns = eqx.filter_vmap(lambda key: make(4, 4, key=key))(keys)
    self.last = eqx.nn.Linear(4, 3, key=keys[0])
    self.is_scanned = is_scanned

  def __call__(self, x):
    arrays, rest = eqx.partition(self.turns, eqx.is_array)
    if self.is_scanned:
      x, _ = jax.lax.scan(lambda x, own: (jnp.tanh(eqx.combine(own, rest)(x)), None), x, arrays)
    else:
      x = jnp.tanh(eqx.filter_vmap(lambda layer: layer(x))(self.turns).mean(0))
    return self.last(x)


@pytest.mark.parametrize("is_scanned", [True, False])
@every_layer
def test_stacked_layers_of_equinox(kind, is_scanned):
  model = Stacked(LAYERS[kind][2], is_scanned)
  assert_refused(model, eqx.filter(model, eqx.is_inexact_array), "turns")


@pytest.mark.parametrize(
  "make",
  [
    lambda key: eqx.nn.Linear(3, 4, key=key),
    lambda key: eqx.nn.Linear(3, 4, use_bias=False, key=key),
    lambda key: eqx.nn.Conv2d(3, 4, (2, 5), key=key),
  ],
)
def test_stacks_of_equinox_in_the_optimisers_layout_are_its_layers_side_by_side(make):
  keys = jax.random.split(jax.random.key(0), 3)
  together = as_layers(eqx.filter_vmap(make)(keys))
  (arrays,) = together.arrays.values()
  for i, key in enumerate(keys):
    (alone,) = as_layers(make(key)).arrays.values()
    for name, array in alone.items():
      np.testing.assert_array_equal(arrays[name][i], array)
  back = together.restore(together.arrays)
  jax.tree.map(np.testing.assert_array_equal, back, eqx.filter_vmap(make)(keys))
