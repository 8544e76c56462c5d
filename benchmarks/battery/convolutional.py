"""Convolutional networks without shortcuts: windows, strides, pools, resizing."""

import functools
import itertools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from battery import models
from battery.initial import everywhere, gaussian, gaussian_in_haiku
from battery.signals import signals

C = 128  # channels
X = signals(8, 8, 16)
POOLED = r"pool|averag|mean over|locations|resiz|mixed by a constant"


def conv(channels, size, **options):
  return hk.Conv2D(channels, size, w_init=gaussian_in_haiku, **options)


def linear(size):
  return hk.Linear(size, w_init=gaussian_in_haiku)


def vgg(x, activation, pool):
  for _ in range(2):
    for _ in range(2):
      x = activation(conv(C, 3)(x))
    x = pool(x, 2, 2, "SAME")
  x = activation(conv(C, 3)(x))
  return activation(linear(256)(hk.Flatten()(x)))


def strided(x, activation):
  x = activation(conv(C, 3)(x))
  for _ in range(2):
    x = activation(conv(C, 3, stride=2)(x))
    x = activation(conv(C, 3, rate=2)(x))
  return conv(C, 1)(x)


def ends_with_pool(x, activation):
  for _ in range(5):
    x = activation(conv(C, 3)(x))
  return linear(10)(x.mean((1, 2)))


def resized(x, activation, method):
  x = activation(conv(C, 3, stride=2)(activation(conv(C, 3)(x))))
  x = jax.image.resize(x, (4, 8, 8, C), method)
  x = activation(conv(C, 3)(x))
  x = jax.image.resize(x, (4, 16, 16, C), method)
  return activation(conv(C, 3)(x))


def pixel_shuffle(x, activation):
  for _ in range(3):
    x = activation(conv(C, 3)(x))
  n, h, w, _ = x.shape
  x = x.reshape(n, h, w, 2, 2, C // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, C // 4)
  return activation(conv(C, 3)(x))


def transposed(x, activation, size):
  x = activation(conv(C, 3, stride=2)(x))
  for _ in range(2):
    x = hk.Conv2DTranspose(C, size, stride=2, w_init=gaussian_in_haiku)(x)
    x = activation(x)
  return conv(C, 1)(x)


def padded(x, activation):
  """A border of zeros, as image generators have before their convolutions."""
  for _ in range(4):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = activation(conv(C, 3)(x))
  return x


def reflected(x, activation):
  for _ in range(4):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    x = activation(conv(C, 3, padding="VALID")(x))
  return x


def causal(x, activation):
  """A temporal net: windows look back only."""
  conv1 = functools.partial(hk.Conv1D, C, 3, w_init=gaussian_in_haiku, padding="VALID")
  for rate in (1, 2, 4):
    x = activation(conv1(rate=rate)(jnp.pad(x, ((0, 0), (2 * rate, 0), (0, 0)))))
  return x


def patches(x, activation):
  """A stem of patches, then pointwise layers, as in ConvNeXt without its shortcuts."""
  x = conv(C, 4, stride=4, padding="VALID")(x)
  for _ in range(3):
    x = conv(C, 1)(activation(conv(2 * C, 1)(activation(x))))
  return x


def pool_between(x, activation, pool):
  for _ in range(3):
    x = activation(conv(C, 3)(x))
  x = pool(x)
  for _ in range(3):
    x = activation(conv(C, 3)(x))
  return x


def blur_pool(x):
  window = np.outer([1, 2, 1], [1, 2, 1]).reshape(3, 3, 1, 1) / 16
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, jnp.asarray(np.tile(window, (1, 1, 1, C)), x.dtype), (2, 2), "SAME", None, None, layout, C
  )


def global_then_layers(x, activation):
  for _ in range(3):
    x = activation(conv(C, 3)(x))
  x = x.mean((1, 2))
  return linear(10)(activation(linear(256)(x)))


class Linen(nn.Module):
  activation: object
  pool: object

  @nn.compact
  def __call__(self, x):
    for _ in range(2):
      x = self.activation(nn.Conv(C, (3, 3), kernel_init=gaussian)(x))
    if self.pool:
      x = nn.avg_pool(x, (2, 2), strides=(2, 2))
    for _ in range(2):
      x = self.activation(nn.Conv(C, (3, 3), kernel_init=gaussian)(x))
    return nn.Dense(256, kernel_init=gaussian)(x.reshape(4, -1))


def equinox_net(key):
  keys = jax.random.split(key, 5)
  sizes = (16, C, C, C, C, C)
  return [
    eqx.nn.Conv2d(n, m, 3, padding=1, use_bias=False, key=k)
    for (n, m), k in zip(itertools.pairwise(sizes), keys, strict=True)
  ]


def equinox_conv(layers, x, activation):
  for layer in layers:
    x = activation(layer(x))
  return x


def equinox_pooled(layers, x, activation):
  for layer in layers[:-1]:
    x = activation(layer(x))
  return activation(layers[-1](eqx.nn.AvgPool2d(2, 2)(x)))


def not_delta_start(key):
  sizes = (16, C, C, C, C, C)
  keys = jax.random.split(key, 5)
  return [
    everywhere(k, (3, 3, n, m)) for (n, m), k in zip(itertools.pairwise(sizes), keys, strict=True)
  ]


def not_delta(kernels, x, activation, padding="SAME"):
  for kernel in kernels:
    x = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = activation(x)
  return x


def not_delta_valid(kernels, x, activation):
  return not_delta(kernels[:3], x, activation, "VALID")


def haiku(name, kind, forward, inputs=X, **options):
  return models.haiku(name, kind, forward, inputs, **options)


MODELS = [
  haiku("vgg, max pools", "vgg", vgg, arguments={"pool": hk.max_pool}, finding="max pool"),
  haiku("vgg, average pools", "vgg", vgg, arguments={"pool": hk.avg_pool}, finding=POOLED),
  haiku("strides and rates", "strided convolutions", strided),
  haiku("pool at the end", "global pooling", ends_with_pool, at="activation"),
  haiku("nearest resize", "resizing", resized, arguments={"method": "nearest"}, finding=POOLED),
  haiku("bilinear resize", "resizing", resized, arguments={"method": "bilinear"}, finding=POOLED),
  haiku("pixel shuffle", "pixel shuffle", pixel_shuffle, q=None),
  haiku(
    "transposed, window 3",
    "transposed convolutions",
    transposed,
    arguments={"size": 3},
    finding="transpos|zeros|pad|stride|dilat",
    q=None,
  ),
  haiku(
    "transposed, window 2",
    "transposed convolutions",
    transposed,
    arguments={"size": 2},
    finding="transpos|stride|dilat",
    q=None,
  ),
  haiku("zero border", "padding", padded, finding="pad|zeros", q=None),
  haiku("reflected border", "padding", reflected, q=None),
  haiku("causal", "temporal convolutions", causal, signals(16, 16), finding="pad|zeros", q=None),
  haiku("patches", "patches", patches),
  haiku(
    "blur pool",
    "blur pool",
    pool_between,
    arguments={"pool": blur_pool},
    finding=POOLED + "|blur|constant",
  ),
  haiku(
    "average pool, same size",
    "average pool in the middle",
    pool_between,
    arguments={"pool": lambda x: hk.avg_pool(x, 3, 1, "SAME")},
    finding=POOLED,
  ),
  haiku("pool, then layers", "average pool in the middle", global_then_layers, finding=POOLED),
  models.linen("convnet, linen", "vgg", lambda a: Linen(a, False), X),
  models.linen(
    "average pool, linen", "average pool in the middle", lambda a: Linen(a, True), X, finding=POOLED
  ),
  models.equinox(
    "convnet, equinox", "vgg", equinox_net, equinox_conv, signals(16, 6, 6, features_at=0), q=None
  ),
  models.equinox(
    "average pool, equinox",
    "average pool in the middle",
    equinox_net,
    equinox_pooled,
    signals(16, 6, 6, features_at=0),
    finding=POOLED,
    q=None,
  ),
  models.plain_jax(
    "kernels not Delta, zero padding",
    "kernels not Delta",
    not_delta,
    not_delta_start,
    signals(5, 5, 16),
    given="arrays",
    finding="Delta|padding|border",
    q=None,
  ),
  models.plain_jax(
    "kernels not Delta, valid",
    "kernels not Delta",
    not_delta_valid,
    not_delta_start,
    signals(9, 9, 16),
    given="arrays",
    q=None,
  ),
]
