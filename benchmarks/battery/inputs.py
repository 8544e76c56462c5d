"""Inputs as they come: uint8 images, flags, several of them, rescaled in the model."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import tatnet
from battery import models
from battery.initial import embedding_in_haiku
from battery.layers import conv, linear
from battery.signals import Inputs, signals

FRAMES = np.random.default_rng(7).integers(0, 256, (4, 6, 6, 3), np.uint8)

BLACK_AND_WHITE = np.where(FRAMES > 127, 255, 0).astype(np.uint8)  # of q = 1 in that range

MEAN, SPREAD = jnp.linspace(-0.3, 0.3, 16), jnp.linspace(0.5, 2, 16)


def raw_images() -> Inputs:
  """Images that have q = 1 once the mean and the spread of the data are taken away."""
  images = signals(6, 6, 16)
  return Inputs((images.arrays[0] * SPREAD + MEAN,), images.gram)


def cosines(x) -> np.ndarray:
  """Of flattened examples."""
  x = np.asarray(x, np.float64).reshape(4, -1)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  return x @ x.T


def normalised(frames):
  x = frames.reshape(4, -1).astype(jnp.float32) / 255
  return tatnet.per_location_normalize(x - 0.5)


def dense_of_bytes(frames, activation):
  x = normalised(frames)
  for _ in range(4):
    x = activation(linear()(x))
  return x


def to_unit_range(frames, activation):
  """Bytes to -1 ... 1, as image models do."""
  x = frames.reshape(4, -1).astype(jnp.float32) / 127.5 - 1.0
  for _ in range(3):
    x = activation(linear()(x))
  return x


def rescaled(x, activation):
  """The mean and the spread of the data are constants of the model."""
  x = (x - MEAN) / SPREAD
  for _ in range(3):
    x = activation(conv()(x))
  return x


def with_location_norm(x, activation):
  x = tatnet.per_location_normalize(x, "off")
  for _ in range(4):
    x = activation(conv()(x))
  return x


def categories(x, ids, activation):
  """Numbers and embedded categories side by side."""
  e = hk.Embed(16, 32, w_init=embedding_in_haiku)(ids)
  x = jnp.concatenate([x, e.reshape(4, -1)], -1)
  for _ in range(3):
    x = activation(linear()(x))
  return x


def one_hot(ids, activation):
  x = jax.nn.one_hot(ids, 64) * 8.0
  for _ in range(3):
    x = activation(linear()(x))
  return x


def flag(x, activation, is_training):
  for _ in range(3):
    x = activation(linear()(x))
    x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
  return x


def raw_activation(x, activation):
  return linear()(activation(linear()(jnp.tanh(x))))


def joined_gram():
  """Of 32 numbers with the usual cosines and 32 of independent embeddings."""
  return 0.5 * signals(32).gram + 0.5 * np.eye(4)


IDS = np.arange(4)
MODELS = [
  models.haiku(
    "bytes, normalised",
    "uint8 images",
    dense_of_bytes,
    Inputs((FRAMES,), cosines(normalised(jnp.asarray(FRAMES)))),
  ),
  models.haiku(
    "bytes to -1 ... 1",
    "uint8 images",
    to_unit_range,
    Inputs((BLACK_AND_WHITE,), cosines(BLACK_AND_WHITE / 127.5 - 1)),
  ),
  models.haiku(
    "mean and spread of the data",
    "rescaled inputs",
    rescaled,
    raw_images(),
    finding="constant|input",
  ),
  models.haiku("location norm", "rescaled inputs", with_location_norm, signals(6, 6, 16)),
  models.haiku(
    "numbers and categories",
    "embeddings",
    categories,
    Inputs((*signals(32).arrays, IDS[:, None]), joined_gram()),
  ),
  models.haiku(
    "one-hot words", "embeddings", one_hot, Inputs((IDS,), np.eye(4)), finding="input|float|integer"
  ),
  models.haiku("a flag", "flags", flag, signals(32), arguments={"is_training": False}),
  models.haiku(
    "activated input", "activated input", raw_activation, signals(32), finding="raw input"
  ),
]
