"""Convolutions in groups, down to one channel each."""

import haiku as hk
import jax
import jax.numpy as jnp

from battery import models
from battery.layers import CHANNELS, conv
from battery.models import TANH
from battery.signals import signals

X = signals(8, 8, 16)
NARROW = r"depthwise|group|channel"


def signs(shape, dtype):
  return jax.random.rademacher(hk.next_rng_key(), shape, dtype)


def centre_signs(shape, dtype):
  """A depthwise kernel: a sign at the centre tap."""
  kernel = jnp.zeros(shape, dtype)
  return kernel.at[1, 1].set(signs(shape[2:], dtype))


def centre_normals(shape, dtype):
  kernel = jnp.zeros(shape, dtype)
  return kernel.at[1, 1].set(jax.random.normal(hk.next_rng_key(), shape[2:], dtype))


def mobilenet(x, activation, start):
  x = activation(conv(3, stride=2)(x))
  for _ in range(3):
    x = activation(hk.DepthwiseConv2D(1, 3, w_init=start)(x))
    x = activation(conv(1)(x))
  return x


def separable(x, activation):
  """Depthwise, then pointwise, nothing between, as in Xception."""
  x = conv(3)(x)
  for _ in range(4):
    x = conv(1)(hk.DepthwiseConv2D(1, 3, w_init=centre_signs)(activation(x)))
  return x


def grouped(x, activation):
  """Groups and a shuffle of channels, as in ShuffleNet."""
  x = conv(1)(x)
  for _ in range(4):
    x = conv(3, feature_group_count=2)(activation(x))
    x = x.reshape(*x.shape[:-1], 2, CHANNELS // 2).swapaxes(-1, -2).reshape(x.shape)
  return x


def haiku(name, kind, forward, **options):
  return models.haiku(name, kind, forward, X, **options)


MODELS = [
  haiku("mobilenet", "depthwise", mobilenet, arguments={"start": centre_signs}, finding=NARROW),
  haiku(
    "mobilenet, tanh, normal kernels",
    "depthwise",
    mobilenet,
    arguments={"start": centre_normals},
    activation=TANH,
    finding=NARROW,
  ),
  haiku("separable", "separable", separable),
  haiku("groups and shuffle", "grouped", grouped),
]
