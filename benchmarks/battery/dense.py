"""Perceptrons: plain, scanned, stacked, tied, wide and deep."""

import itertools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from battery import models
from battery.initial import WIDTH, gaussian, gaussian_in_haiku, squares, weights
from battery.models import TANH
from battery.signals import signals

X = signals(32)


def linear(size, **options):
  return hk.Linear(size, w_init=gaussian_in_haiku, **options)


def mlp(x, activation):
  return hk.nets.MLP([WIDTH] * 7, w_init=gaussian_in_haiku, activation=activation)(x)


def stacked(x, activation):
  block = hk.experimental.layer_stack(6)(lambda x: activation(linear(WIDTH)(x)))
  return linear(WIDTH)(block(linear(WIDTH)(x)))


def wide_and_deep(x, activation):
  deep = x
  for _ in range(4):
    deep = activation(linear(WIDTH)(deep))
  return 0.6 * linear(WIDTH)(x) + 0.8 * linear(WIDTH)(deep)


def autoencoder(x, activation):
  for width in (WIDTH, 128, 96, 128, WIDTH):
    x = activation(linear(width)(x))
  return linear(WIDTH)(x)


def half_precision(x, activation):
  x = x.astype(jnp.bfloat16)
  for _ in range(4):
    x = activation(linear(WIDTH)(x).astype(jnp.float32)).astype(jnp.bfloat16)
  return linear(WIDTH)(x).astype(jnp.float32)


def self_normalising(x):
  for _ in range(5):
    x = jax.nn.selu(linear(WIDTH)(x))
  return linear(WIDTH)(x)


class Linen(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    for _ in range(5):
      x = self.activation(nn.Dense(WIDTH, kernel_init=gaussian)(x))
    return nn.Dense(WIDTH, kernel_init=gaussian)(x)


class Scanned(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)

    class Block(nn.Module):
      activation: object

      @nn.compact
      def __call__(self, x, _):
        return nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x)), None

    blocks = nn.scan(
      nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
    )
    x, _ = blocks(self.activation)(x, None)
    return x


class Nnx(nnx.Module):
  def __init__(self, activation, rngs):
    self.activation = activation
    sizes = [32] + [WIDTH] * 6
    self.layers = nnx.List(
      [nnx.Linear(n, m, kernel_init=gaussian, rngs=rngs) for n, m in itertools.pairwise(sizes)]
    )

  def __call__(self, x):
    for layer in self.layers[:-1]:
      x = self.activation(layer(x))
    return self.layers[-1](x)


def equinox_mlp(model, x, activation):
  for layer in model.layers[:-1]:
    x = activation(layer(x))
  return model.layers[-1](x)


def scanned(params, x, activation):
  first, blocks = params
  x, _ = jax.lax.scan(lambda x, w: (activation(x @ w), None), x @ first, blocks)
  return x


def scanned_start(key):
  first, second = jax.random.split(key)
  blocks = jax.vmap(lambda key: gaussian(key, (WIDTH, WIDTH)))(jax.random.split(second, 6))
  return gaussian(first, (32, WIDTH)), blocks


def recurrent(params, x, activation):
  h = jnp.zeros([4, WIDTH])
  for step in range(4):
    h = activation(0.6 * x[:, step] @ params[0] + 0.8 * h @ params[1])
  return h @ params[2]


def recurrent_scanned(params, x, activation):
  def step(h, x):
    return activation(0.6 * x @ params[0] + 0.8 * h @ params[1]), None

  h, _ = jax.lax.scan(step, jnp.zeros([4, WIDTH]), jnp.swapaxes(x, 0, 1))
  return h @ params[2]


def tied(params, x, activation):
  for w in params["w"]:
    x = activation(x @ w)
  for w in params["w"][::-1]:
    x = activation(x @ w.T)
  return x


def equilibrium(params, x, activation):
  u = x @ params["w"][0]
  for _ in range(3):
    x = activation(0.6 * x @ params["w"][1] + 0.8 * u)
  return x


def named_act(params, x, act=jnp.tanh):
  for w in params["w"]:
    x = act(x @ w)
  return x


def sizes_of_weights(params, x, activation):
  penalty = sum(jnp.sum(w**2) for w in params["w"])
  for w in params["w"]:
    x = activation(x @ w)
  return x, penalty


HIDDEN = signals(WIDTH)
TIED = r"tied|recurren|same weights"

MODELS = [
  models.haiku("mlp", "perceptron", mlp, X),
  models.haiku("mlp, tanh", "perceptron", mlp, X, activation=TANH),
  models.haiku("layer stack", "scanned layers", stacked, X),
  models.haiku("wide and deep", "wide and deep", wide_and_deep, X),
  models.haiku("autoencoder", "autoencoder", autoencoder, X),
  models.haiku("bfloat16", "half precision", half_precision, X),
  models.haiku("selu", "self-normalising", self_normalising, X),
  models.linen("mlp, linen", "perceptron", Linen, X),
  models.linen("scan of remat, linen", "scanned layers", Scanned, X),
  models.nnx("mlp, nnx", "perceptron", Nnx, X),
  models.equinox(
    "mlp, equinox",
    "perceptron",
    lambda key: eqx.nn.MLP(32, WIDTH, WIDTH, 5, key=key),
    equinox_mlp,
    X,
  ),
  models.plain_jax("scan", "scanned layers", scanned, scanned_start, X),
  models.plain_jax(
    "recurrent net, unrolled",
    "recurrent",
    recurrent,
    weights((32, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)),
    signals(4, 32),
    finding=TIED,
  ),
  models.plain_jax(
    "recurrent net, scanned",
    "recurrent",
    recurrent_scanned,
    weights((32, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)),
    signals(4, 32),
    finding=TIED,
  ),
  models.plain_jax("tied autoencoder", "tied weights", tied, squares(2), HIDDEN, finding=TIED),
  models.plain_jax("fixed point", "tied weights", equilibrium, squares(2), HIDDEN, finding=TIED),
  models.plain_jax(
    "argument called act",
    "named activation",
    named_act,
    squares(5),
    HIDDEN,
    arguments=lambda activation: {"act": activation},
  ),
  models.plain_jax("weight decay in it", "losses", sizes_of_weights, squares(4), HIDDEN),
]
