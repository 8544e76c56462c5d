"""Statistics of a signal that are not its mean square: as sizes, as features, as weights of tokens."""

import functools

import jax
import jax.numpy as jnp

from battery import models
from battery.initial import WIDTH, squares
from battery.layers import linear
from battery.signals import signals

HIDDEN, SET = signals(WIDTH), signals(6, 32)


def divided(params, x, activation, statistic):
  """Divided by another size than the root mean square."""
  for w in params["w"]:
    x = activation(x @ w)
    x = x / statistic(x)
  return x


STATISTICS = {
  "largest entry": lambda x: jnp.max(jnp.abs(x), -1, keepdims=True),
  "mean size": lambda x: jnp.mean(jnp.abs(x), -1, keepdims=True),
  "q": lambda x: jnp.mean(x**2, -1, keepdims=True),
  "the first half": lambda x: jnp.sqrt(jnp.mean(x[..., :128] ** 2, -1, keepdims=True)),
}


def frames(x, activation):
  for _ in range(2):
    x = activation(linear()(x))
  return x


def mean_and_deviation(x, activation):
  """Statistics pooling, as speaker recognition has."""
  x = frames(x, activation)
  return activation(linear()(jnp.concatenate([x.mean(1), x.std(1)], -1)))


def length_over_tokens(x, activation):
  x = frames(x, activation)
  return activation(linear()(jnp.sqrt(jnp.mean(x**2, 1))))


def less_the_mean_token(x, activation):
  for _ in range(3):
    x = activation(linear()(x))
    x = x - x.mean(1, keepdims=True)
  return linear()(x)


def by_distance(x, activation):
  """Attention with queries of 0 and a bias by distance (ALiBi): a constant softmax."""
  distance = jnp.abs(jnp.arange(6)[:, None] - jnp.arange(6))
  mix = jax.nn.softmax(-0.5 * distance.astype(x.dtype))
  for _ in range(3):
    x = jnp.einsum("ij,bjd->bid", mix, activation(linear()(x)))
  return linear()(x)


def mean_of_the_image(x, activation):
  """The input is averaged before anything else."""
  return linear()(activation(linear()(x.mean((1, 2)))))


NO_MAP = r"nonlinearity without|averag|locations"
MODELS = [
  *(
    models.plain_jax(
      f"divided by {name}",
      "other sizes",
      functools.partial(divided, statistic=statistic),
      squares(3),
      HIDDEN,
      finding="unknown size",
    )
    for name, statistic in STATISTICS.items()
  ),
  models.haiku("mean and deviation", "statistics pooling", mean_and_deviation, SET, finding=NO_MAP),
  models.haiku("length over tokens", "statistics pooling", length_over_tokens, SET, finding=NO_MAP),
  models.haiku(
    "less the mean token",
    "centred over tokens",
    less_the_mean_token,
    SET,
    finding="instance norm|locations",
  ),
  models.haiku(
    "attention by distance", "constant attention", by_distance, SET, finding="averag|locations"
  ),
  models.haiku(
    "mean of the image",
    "averaged input",
    mean_of_the_image,
    signals(4, 4, 16),
    finding="average of the raw",
  ),
]
