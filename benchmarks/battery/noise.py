"""Dropout between layers and before the head, drop path as people write it, noise."""

import itertools

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from battery import models
from battery.initial import WIDTH, gaussian
from battery.layers import linear
from battery.signals import signals

VECTORS = signals(32)
DROPPED = r"dropout|drop|noise|random"
RATE = 0.5


def between(x, activation):
  for _ in range(4):
    x = activation(linear()(x))
    x = hk.dropout(hk.next_rng_key(), RATE, x)
  return linear()(x)


def before_the_head(x, activation):
  for _ in range(4):
    x = activation(linear()(x))
  return linear()(hk.dropout(hk.next_rng_key(), RATE, x))


def of_the_input(x, activation):
  x = hk.dropout(hk.next_rng_key(), 0.2, x)
  for _ in range(4):
    x = activation(linear()(x))
  return linear()(x)


def by_hand(x, activation):
  for _ in range(3):
    x = activation(linear()(x))
    keep = jax.random.bernoulli(hk.next_rng_key(), 1 - RATE, x.shape)
    x = jnp.where(keep, x / (1 - RATE), 0)
  return linear()(x)


def gaussian_noise(x, activation):
  for _ in range(3):
    x = linear()(x)
    x = activation(x + 0.5 * jax.random.normal(hk.next_rng_key(), x.shape))
  return x


def kept(x, shape_of=lambda x: (x.shape[0], 1)):
  return jax.random.uniform(hk.next_rng_key(), shape_of(x))


SPELLINGS = {
  "where bernoulli": lambda y, k: jnp.where(
    jax.random.bernoulli(hk.next_rng_key(), k, (y.shape[0], 1)), y / k, 0
  ),
  "floor": lambda y, k: y / k * jnp.floor(k + kept(y)),
  "u > drop": lambda y, k: jnp.where(kept(y) > 1 - k, y / k, 0),
  "mask / keep": lambda y, k: y * ((kept(y) < k) / k),
  "cond": lambda y, k: jax.lax.cond(
    jax.random.uniform(hk.next_rng_key()) < k, lambda y: y / k, jnp.zeros_like, y
  ),
  "mask.astype": lambda y, k: y * (kept(y) < k).astype(y.dtype) / k,
  "dropout of rows": lambda y, k: (
    y * hk.dropout(hk.next_rng_key(), 1 - k, jnp.ones([y.shape[0], 1]))
  ),
}


def drop_path(x, activation, spelling):
  """With a keep rate near 1, so that what is left of its noise is within the tolerance."""
  x = linear()(x)
  for _ in range(3):
    y = linear()(activation(x))
    x = 0.6 * x + 0.8 * SPELLINGS[spelling](y, 0.98)
  return linear()(activation(x))


class Linen(nn.Module):
  """Dropout between layers, or before the head only."""

  activation: object
  everywhere: bool
  is_training: bool = True

  @nn.compact
  def __call__(self, x):
    drop = nn.Dropout(RATE, deterministic=not self.is_training)
    for _ in range(3):
      x = self.activation(nn.Dense(WIDTH, kernel_init=gaussian)(x))
      x = drop(x) if self.everywhere else x
    return nn.Dense(WIDTH, kernel_init=gaussian)(drop(x))


class Nnx(nnx.Module):
  def __init__(self, activation, rngs):
    self.activation = activation
    sizes = (32, WIDTH, WIDTH, WIDTH)
    self.layers = nnx.List(
      [nnx.Linear(n, m, kernel_init=gaussian, rngs=rngs) for n, m in itertools.pairwise(sizes)]
    )
    self.drop = nnx.Dropout(RATE, rngs=rngs)

  def __call__(self, x):
    for layer in self.layers:
      x = self.drop(self.activation(layer(x)))
    return x


def haiku(name, kind, forward, **options):
  return models.haiku(name, kind, forward, VECTORS, **options)


MODELS = [
  haiku("dropout between layers", "dropout between layers", between, finding=DROPPED),
  haiku("dropout by hand", "dropout between layers", by_hand, finding=DROPPED),
  haiku("dropout before the head", "dropout before the head", before_the_head, at="activation"),
  haiku("dropout of the input", "dropout between layers", of_the_input, finding=DROPPED),
  haiku("noise before activations", "noise", gaussian_noise, finding=DROPPED),
  *(
    haiku(f"drop path, {name}", "drop path", drop_path, arguments={"spelling": name})
    for name in SPELLINGS
  ),
  models.linen(
    "dropout between, linen",
    "dropout between layers",
    lambda a: Linen(a, True),
    VECTORS,
    finding=DROPPED,
  ),
  models.linen(
    "dropout at inference, linen",
    "dropout between layers",
    lambda a: Linen(a, True, False),
    VECTORS,
  ),
  models.linen(
    "dropout before the head, linen",
    "dropout before the head",
    lambda a: Linen(a, False),
    VECTORS,
    at="activation",
  ),
  models.nnx("dropout between, nnx", "dropout between layers", Nnx, VECTORS, finding=DROPPED),
]
