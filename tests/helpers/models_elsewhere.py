"""Models in Flax, Equinox and plain JAX, each beside its maximising function f(x, r)."""

import functools
from collections.abc import Callable

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from models import KEY, REST, Model, W, filled, residual_maximum

import tatnet


class Linen(nn.Module):
  activation: Callable
  training: bool

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3))(x)
    for _ in range(2):
      y = nn.Conv(8, (3, 3))(self.activation(nn.GroupNorm(num_groups=2)(x)))
      x = W * x + REST * y
    x = nn.avg_pool(self.activation(x), (2, 2), strides=(2, 2))
    x = nn.RMSNorm()(nn.Dense(12)(x.reshape(x.shape[0], -1)))
    x = nn.Dropout(0.3, deterministic=not self.training)(self.activation(x))
    return nn.Dense(3)(x)


def linen(training):
  def shapes(x):
    return jax.eval_shape(Linen(jnp.tanh, False).init, KEY, x)

  def apply(activation, parameters, x):
    return Linen(activation, training).apply(parameters, x, rngs={"dropout": KEY})

  def trace(x):
    return tatnet.trace_apply(functools.partial(apply, tatnet.placeholder), shapes(x), x)

  def run(activation, x):
    return apply(activation, filled(shapes(x)), x)

  name = f"flax linen{' training' * training}"
  return Model(name, (2, 6, 6, 3), trace, run, residual_maximum(2, final=2), "averaging between")


class Nnx(nnx.Module):
  def __init__(self, activation, rngs):
    self.activation = activation
    self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
    self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs), nnx.RMSNorm(8, rngs=rngs)])
    self.convs = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2)])
    self.dropout = nnx.Dropout(0.3, rngs=rngs)
    self.head = nnx.Linear(8, 3, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for norm, conv in zip(self.norms, self.convs, strict=True):
      x = W * x + REST * conv(self.activation(norm(x)))
    return self.head(self.dropout(self.activation(x)).mean((1, 2)))


def shapes_of_nnx(activation):
  return nnx.split(nnx.eval_shape(lambda: Nnx(activation, nnx.Rngs(0))))


def trace_nnx(x):
  graph, state = shapes_of_nnx(tatnet.placeholder)
  return tatnet.trace_apply(lambda state, x: nnx.merge(graph, state)(x), state, x)


def run_nnx(activation, x):
  graph, state = shapes_of_nnx(activation)
  return nnx.merge(graph, filled(state))(x)


class Equinox(eqx.Module):
  convs: list
  norm: eqx.nn.GroupNorm
  head: eqx.nn.Linear

  def __init__(self):
    keys = jax.random.split(KEY, 4)
    conv = functools.partial(eqx.nn.Conv2d, kernel_size=3, padding=1, use_bias=False)
    self.convs = [conv(n, 8, key=key) for n, key in zip((3, 8, 8), keys[:3], strict=True)]
    self.norm = eqx.nn.GroupNorm(2, 8)
    self.head = eqx.nn.Linear(8, 3, use_bias=False, key=keys[3])

  def __call__(self, x, activation):
    x = self.convs[0](x)
    for conv in self.convs[1:]:
      x = W * x + REST * conv(activation(self.norm(x)))
    return self.head(jnp.mean(activation(x), axis=(1, 2)))


def equinox(model, x, activation):
  return jax.vmap(lambda x: model(x, activation))(x)


def scanned(parameters, x, activation):
  def block(x, weights):
    return W * x + REST * activation(activation(x @ weights[0]) @ weights[1]) @ weights[2], None

  x, _ = jax.lax.scan(block, x @ parameters["first"], parameters["blocks"])
  return activation(x) @ parameters["last"]


SCANNED = {
  "first": jax.ShapeDtypeStruct((5, 8), jnp.float32),
  "blocks": [jax.ShapeDtypeStruct((4, 8, 8), jnp.float32) for _ in range(3)],
  "last": jax.ShapeDtypeStruct((8, 2), jnp.float32),
}


def scanned_maximum(x, r):
  start = x
  for _ in range(4):
    x = W**2 * x + REST**2 * r(r(x))
  return max(r(x), r(r(start)))


def function(name, apply, parameters, shape, maximum, warns=""):
  """A plain function apply(parameters, x, activation), given the shapes of its parameters."""

  def trace(x):
    return tatnet.trace_apply(apply, parameters, x)

  def run(activation, x):
    return apply(filled(parameters), x, activation)

  return Model(name, shape, trace, run, maximum, warns)


GAIN = "gain is given by its shape alone"

MODELS = [
  linen(False),
  linen(True),
  Model("flax nnx", (2, 6, 6, 3), trace_nnx, run_nnx, residual_maximum(2, final=1), GAIN),
  function(
    "equinox",
    equinox,
    eqx.filter_eval_shape(Equinox),
    (2, 3, 6, 6),
    residual_maximum(2, final=1),
    GAIN,
  ),
  function("scan", scanned, SCANNED, (4, 5), scanned_maximum),
]
