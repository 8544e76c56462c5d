"""Normalisation before and behind activations, with C(0) = 0 and C(0) > 0."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from battery import models
from battery.initial import WIDTH, gaussian, squares
from battery.layers import CHANNELS, conv, linear
from battery.models import SOFTPLUS, TANH
from battery.signals import signals

VECTORS, HIDDEN, IMAGES = signals(32), signals(WIDTH), signals(5, 5, 16)
FIRST = signals(16, 5, 5, features_at=0)
CENTRED = r"\bmean\b|centr|(layer|group) norm"
BATCH = r"batch normalisation"


def layer_norm(axis=-1):
  return hk.LayerNorm(axis, create_scale=True, create_offset=True)


def before(x, activation, norm):
  for _ in range(5):
    x = activation(norm()(linear()(x)))
  return linear()(x)


def behind(x, activation, norm):
  for _ in range(5):
    x = norm()(activation(linear()(x)))
  return linear()(x)


def pre_norm_residual(x, activation):
  x = linear()(x)
  for _ in range(4):
    x = 0.6 * x + 0.8 * linear()(activation(linear()(layer_norm()(x))))
  return linear()(layer_norm()(x))


def norm_of_a_rectified_stream(x, activation):
  """The stream that is normalised has a mean: it is made of activations without weights behind."""
  x = activation(linear()(x))
  for _ in range(3):
    x = activation(0.6 * x + 0.8 * linear()(activation(linear()(layer_norm()(x)))))
  return linear()(x)


def group_norm_before(x, activation):
  for _ in range(4):
    x = activation(hk.GroupNorm(4)(conv()(x)))
  return x


def group_norm_behind(x, activation):
  for _ in range(4):
    x = hk.GroupNorm(4)(activation(conv()(x)))
  return conv(1)(x)


def spatial_norm(x, activation):
  """A layer norm over locations and channels at once, as in early ConvNets with layer norm."""
  for _ in range(4):
    x = layer_norm((1, 2, 3))(activation(conv()(x)))
  return conv(1)(x)


def batch_norm(x, activation):
  for _ in range(3):
    x = activation(hk.BatchNorm(True, True, 0.9)(linear()(x), is_training=True))
  return x


def pool_then_norm(x, activation, norm):
  for _ in range(3):
    x = activation(conv()(x))
  return linear(10)(norm(x.mean((1, 2))))


def unit_length(h):
  return h / jnp.linalg.norm(h, axis=-1, keepdims=True)


def unit_size(h):
  return h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))


def sizes_only(x, activation):
  """Divided by the root mean square, without a module: no mean is taken away."""
  for _ in range(4):
    x = unit_size(activation(linear()(x)))
  return linear()(x)


class Linen(nn.Module):
  """Dense layers with a norm before or behind the activation."""

  activation: object
  norm: object
  is_behind: bool

  @nn.compact
  def __call__(self, x):
    for _ in range(4):
      x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
      x = self.norm()(self.activation(x)) if self.is_behind else self.activation(self.norm()(x))
    return nn.Dense(WIDTH, kernel_init=gaussian)(x)


class WeightNorm(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    for _ in range(4):
      x = self.activation(nn.WeightNorm(nn.Dense(WIDTH, kernel_init=gaussian))(x))
    return x


class Nnx(nnx.Module):
  def __init__(self, activation, rngs, norm, is_behind):
    self.activation, self.is_behind = activation, is_behind
    self.first = nnx.Linear(32, WIDTH, kernel_init=gaussian, rngs=rngs)
    self.layers = nnx.List(
      [nnx.Linear(WIDTH, WIDTH, kernel_init=gaussian, rngs=rngs) for _ in range(3)]
    )
    self.norms = nnx.List([norm(WIDTH, rngs=rngs) for _ in range(3)])

  def __call__(self, x):
    x = self.first(x)
    for norm, layer in zip(self.norms, self.layers, strict=True):
      x = norm(self.activation(x)) if self.is_behind else self.activation(norm(x))
      x = layer(x)
    return x


def equinox_net(key):
  keys = jax.random.split(key, 4)
  convs = [
    eqx.nn.Conv2d(n, CHANNELS, 3, padding=1, use_bias=False, key=k)
    for n, k in zip((16, CHANNELS, CHANNELS, CHANNELS), keys, strict=True)
  ]
  return convs, [eqx.nn.GroupNorm(4, CHANNELS) for _ in range(4)]


def equinox_behind(model, x, activation):
  for layer, norm in zip(*model, strict=True):
    x = norm(activation(layer(x)))
  return x


def equinox_before(model, x, activation):
  for layer, norm in zip(*model, strict=True):
    x = activation(norm(layer(x)))
  return x


def gained(params, x, activation):
  """A layer norm written by hand, with a gain and an offset, behind the activation."""
  for w, gain, offset in zip(params["w"], params["gain"], params["offset"], strict=True):
    x = activation(x @ w)
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * gain + offset
  return x


def gained_start(key):
  return squares(4, gain=jnp.ones([4, WIDTH]), offset=jnp.zeros([4, WIDTH]))(key)


def weight_standardised(params, x, activation):
  """Weights with their mean taken away and put to their size, inside the network."""
  for w in params["w"]:
    w = (w - w.mean(0)) / (w.std(0) * jnp.sqrt(w.shape[0]))
    x = activation(x @ w)
  return x


def haiku(name, kind, forward, inputs=VECTORS, **options):
  return models.haiku(name, kind, forward, inputs, **options)


def with_norm(norm):
  return {"norm": norm}


BEFORE, BEHIND = "norm before activations", "norm behind activations"
MODELS = [
  haiku("layer norm before", BEFORE, before, arguments=with_norm(layer_norm)),
  haiku("layer norm behind relu", BEHIND, behind, arguments=with_norm(layer_norm), finding=CENTRED),
  haiku("layer norm behind tanh", BEHIND, behind, arguments=with_norm(layer_norm), activation=TANH),
  haiku(
    "layer norm behind softplus",
    BEHIND,
    behind,
    arguments=with_norm(layer_norm),
    activation=SOFTPLUS,
    finding=CENTRED,
  ),
  haiku("rms norm behind", BEHIND, behind, arguments=with_norm(lambda: hk.RMSNorm(-1))),
  haiku("sizes by hand", BEHIND, sizes_only),
  haiku("pre-norm residual", "norm in branches", pre_norm_residual),
  haiku(
    "norm of a rectified stream", "norm in branches", norm_of_a_rectified_stream, finding=CENTRED
  ),
  haiku("group norm before", BEFORE, group_norm_before, IMAGES),
  haiku("group norm behind", BEHIND, group_norm_behind, IMAGES, finding=CENTRED),
  haiku("norm over all of an image", BEHIND, spatial_norm, IMAGES, finding=CENTRED),
  haiku("batch norm", "batch norm", batch_norm, finding=BATCH),
  *(
    haiku(
      f"pool, then {name}",
      "pool, then norm",
      pool_then_norm,
      IMAGES,
      arguments=with_norm(norm),
      at="activation",
    )
    for name, norm in {
      "layer norm": lambda h: layer_norm()(h),
      "rms norm": lambda h: hk.RMSNorm(-1)(h),
      "unit length": unit_length,
    }.items()
  ),
  models.linen(
    "layer norm behind, linen",
    BEHIND,
    lambda a: Linen(a, nn.LayerNorm, True),
    VECTORS,
    finding=CENTRED,
  ),
  models.linen(
    "layer norm behind, linen, arrays",
    BEHIND,
    lambda a: Linen(a, nn.LayerNorm, True),
    VECTORS,
    given="arrays",
    finding=CENTRED,
  ),
  models.linen("rms norm before, linen", BEFORE, lambda a: Linen(a, nn.RMSNorm, False), VECTORS),
  models.linen("weight norm", "weight norm", WeightNorm, VECTORS, finding="weight norm|gain"),
  models.nnx(
    "layer norm before, nnx", BEFORE, lambda a, rngs: Nnx(a, rngs, nnx.LayerNorm, False), VECTORS
  ),
  models.nnx(
    "layer norm behind, nnx",
    BEHIND,
    lambda a, rngs: Nnx(a, rngs, nnx.LayerNorm, True),
    VECTORS,
    finding=CENTRED,
  ),
  models.nnx(
    "batch norm, nnx",
    "batch norm",
    lambda a, rngs: Nnx(a, rngs, nnx.BatchNorm, False),
    VECTORS,
    finding=BATCH,
  ),
  models.equinox("group norm before, equinox", BEFORE, equinox_net, equinox_before, FIRST),
  models.equinox(
    "group norm behind, equinox", BEHIND, equinox_net, equinox_behind, FIRST, finding=CENTRED
  ),
  models.plain_jax(
    "norm by hand behind, shapes", BEHIND, gained, gained_start, HIDDEN, finding=CENTRED
  ),
  models.plain_jax(
    "norm by hand behind, arrays",
    BEHIND,
    gained,
    gained_start,
    HIDDEN,
    given="arrays",
    finding=CENTRED,
  ),
  models.plain_jax(
    "standardised weights",
    "weight norm",
    weight_standardised,
    squares(4),
    HIDDEN,
    finding="weight|standard",
  ),
]
