"""Networks with branches: shortcuts, gains on them, concatenation, ensembles."""

import math

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from battery import models
from battery.initial import WIDTH, gaussian, squares
from battery.layers import conv, linear
from battery.models import TANH
from battery.signals import signals

IMAGES, VECTORS, HIDDEN = signals(6, 6, 16), signals(32), signals(WIDTH)
SUM = r"sum not normalised|not normalised"
ACTIVATED = r"without weights|activated|rectified|not Gaussian|mean"
POOLED = r"pool|averag|mean over|locations"


def resnet_v1(x, activation):
  x = activation(conv()(x))
  for stride in (1, 1, 2):
    y = conv()(activation(conv(stride=stride)(x)))
    x = activation(0.6 * (conv(1, stride=2)(x) if stride == 2 else x) + 0.8 * y)
  return conv(1)(x)


def resnet_v2(x, activation):
  x = conv()(x)
  for stride in (1, 1, 2):
    start = activation(x)
    y = conv(stride=stride)(start)
    y = conv()(activation(conv()(activation(y))))
    x = 0.6 * (conv(1, stride=2)(start) if stride == 2 else x) + 0.8 * y
  return conv(1)(activation(x))


def un_normalised(x, activation):
  x = linear()(x)
  for _ in range(3):
    x = x + linear()(activation(linear()(activation(x))))
  return x


def resnet_d(x, activation):
  """An average pool on the shortcut."""
  x = activation(conv()(x))
  for _ in range(2):
    y = conv()(activation(conv(stride=2)(x)))
    x = activation(0.6 * conv(1)(hk.avg_pool(x, 2, 2, "SAME")) + 0.8 * y)
  return x


def densenet(x, activation):
  x = conv()(x)
  for _ in range(3):
    x = jnp.concatenate([x, conv(channels=64)(activation(conv(1)(activation(x))))], axis=-1)
  return conv(1)(activation(x))


def u_net(x, activation):
  top = activation(conv()(x))
  middle = activation(conv(stride=2)(top))
  bottom = activation(conv(stride=2)(middle))
  up = jnp.repeat(jnp.repeat(bottom, 2, 1), 2, 2)[:, :3, :3]
  up = activation(conv()(jnp.concatenate([middle, up], -1)))
  up = jnp.repeat(jnp.repeat(up, 2, 1), 2, 2)
  up = activation(conv()(jnp.concatenate([top, up], -1)))
  return conv(1)(up)


def inception(x, activation):
  x = activation(conv()(x))
  for _ in range(2):
    one = activation(conv(1, 64)(x))
    three = activation(conv(3, 64)(activation(conv(1, 64)(x))))
    five = activation(conv(5, 32)(activation(conv(1, 32)(x))))
    x = jnp.concatenate([one, three, five], axis=-1)
  return conv(1)(x)


def inception_pooled(x, activation):
  x = activation(conv()(x))
  pooled = activation(conv(1, 64)(hk.avg_pool(x, 3, 1, "SAME")))
  x = jnp.concatenate([activation(conv(1, 64)(x)), pooled], axis=-1)
  return activation(conv(1)(x))


def res2net(x, activation):
  """The features of one layer split, treated one after the other, recombined."""
  x = linear()(x)
  for _ in range(2):
    first, second = jnp.split(activation(linear()(x)), 2, axis=-1)
    parts = [first, activation(linear(WIDTH // 2)(second))]
    x = linear()(jnp.concatenate(parts, axis=-1))
  return x


def coupling(x, activation):
  """Additive coupling of two halves, as reversible networks have."""
  left, right = jnp.split(linear(2 * WIDTH)(x), 2, axis=-1)
  for _ in range(2):
    left = 0.6 * left + 0.8 * linear()(activation(right))
    right = 0.6 * right + 0.8 * linear()(activation(left))
  return jnp.concatenate([left, right], axis=-1)


def cross_stage(x, activation):
  """Half of the channels skips the stage, then both are joined (CSPNet)."""
  x = conv()(x)
  for _ in range(2):
    skip, y = jnp.split(x, 2, axis=-1)
    y = conv(3, 64)(activation(conv(3)(activation(y))))
    x = conv(1)(jnp.concatenate([skip, y], axis=-1))
  return x


def crelu(x, activation):
  """Positive and negative part side by side, with the activation."""
  for _ in range(4):
    x = linear(WIDTH // 2)(x)
    x = jnp.concatenate([activation(x), activation(-x)], axis=-1)
  return linear()(x)


def rezero(params, x, activation):
  for gain, w in zip(params["gain"], params["w"], strict=True):
    x = x + gain * (activation(x @ w))
  return x


def layer_scale(params, x, activation):
  x = x @ params["w"][0]
  for gain, w, v in zip(params["gain"], params["w"][1::2], params["w"][2::2], strict=True):
    x = 0.6 * x + 0.8 * gain * (activation(x @ w) @ v)
  return x


def convex(params, x, activation):
  """A learned blend of branch and shortcut."""
  x = x @ params["w"][0]
  for blend, w, v in zip(params["blend"], params["w"][1::2], params["w"][2::2], strict=True):
    a = jax.nn.sigmoid(blend)
    x = jnp.sqrt(a) * x + jnp.sqrt(1 - a) * (activation(x @ w) @ v)
  return x


def scaled_left_and_right(params, x, activation):
  """A factor before, between or behind the product is the same factor."""
  w = params["w"]
  x = x @ w[0]
  x = (0.6 * x) + (0.8 * activation(x)) @ w[1]
  x = x * 0.6 + activation(x) @ (0.8 * w[2])
  x = x / (1 / 0.6) + 0.8 * (activation(x @ w[3]) @ w[4])
  return (0.6 * x) @ w[5] + (activation(x) * 0.8) @ w[6]


def factor_on_the_input(params, x, activation):
  w = params["w"]
  return activation((0.6 * x) @ w[0] + 0.8 * activation(x @ w[1]) @ w[2]) @ w[3]


class SkipInit(nn.Module):
  """Brock and De: x + a scalar gain that starts at 0 times the branch."""

  activation: object

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    for i in range(3):
      y = nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))
      x = x + self.param(f"gain_{i}", nn.initializers.zeros, ()) * y
    return nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))


class LayerScale(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    for i in range(3):
      y = nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))
      x = x + self.param(f"gain_{i}", nn.initializers.constant(1e-5), (WIDTH,)) * y
    return nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))


class PostNorm(nn.Module):
  """A norm behind each sum puts q right whatever the weights of the sum."""

  activation: object

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    for _ in range(3):
      y = nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))
      x = nn.RMSNorm()(x + y)
    return x


class NnxResidual(nnx.Module):
  def __init__(self, activation, rngs):
    self.activation = activation
    self.first = nnx.Linear(32, WIDTH, kernel_init=gaussian, rngs=rngs)
    self.blocks = nnx.List(
      [nnx.Linear(WIDTH, WIDTH, kernel_init=gaussian, rngs=rngs) for _ in range(8)]
    )

  def __call__(self, x):
    x = self.first(x)
    for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
      x = 0.6 * x + 0.8 * second(self.activation(first(self.activation(x))))
    return x


def equinox_residual(key):
  keys = jax.random.split(key, 5)
  return [eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=k) for k in keys]


def equinox_apply(layers, x, activation):
  x = layers[0](x)
  for layer in layers[1:]:
    x = math.sqrt(0.5) * (x + layer(activation(x)))
  return x


def ensemble_of_logits(params, x, activation):
  """Members by vmap; the mean of their logits, put to q = 1."""
  first, middle, last = params
  members = jax.vmap(lambda a, b, c: activation(activation(x @ a) @ b) @ c)(first, middle, last)
  return math.sqrt(3) * members.mean(0)


def two_towers(params, a, b, activation):
  for w, v in zip(params["w"][:3], params["w"][3:6], strict=True):
    a, b = activation(a @ w), activation(b @ v)
  return 0.6 * a @ params["w"][6] + 0.8 * b @ params["w"][7]


def stacked_members(key):
  keys = jax.random.split(key, 9)
  shapes = [(32, WIDTH)] * 3 + [(WIDTH, WIDTH)] * 6
  kernels = [gaussian(k, s) for k, s in zip(keys, shapes, strict=True)]
  return [jnp.stack(kernels[i : i + 3]) for i in (0, 3, 6)]


TWO = signals(WIDTH, also=(signals(WIDTH).arrays[0],))
GAIN = r"gain|shape|initial|value"


def haiku(name, kind, forward, inputs=IMAGES, **options):
  return models.haiku(name, kind, forward, inputs, **options)


def jax_model(name, kind, apply, init, inputs=HIDDEN, **options):
  return models.plain_jax(name, kind, apply, init, inputs, **options)


MODELS = [
  haiku("resnet v1", "residual", resnet_v1, finding=ACTIVATED),
  haiku("resnet v2", "residual", resnet_v2),
  haiku("un-normalised residual", "un-normalised residual", un_normalised, VECTORS, finding=SUM),
  haiku("pool on the shortcut", "residual", resnet_d, finding=POOLED),
  haiku("densenet", "dense concatenation", densenet),
  haiku("u-net", "u-net", u_net),
  haiku("inception", "parallel branches", inception),
  haiku("inception, average pool", "parallel branches", inception_pooled, finding=POOLED),
  haiku("res2net", "split and recombined", res2net, VECTORS),
  haiku("reversible", "coupling", coupling, VECTORS),
  haiku("cross stage", "split and recombined", cross_stage),
  haiku("crelu", "concatenated halves", crelu, VECTORS),
  jax_model("rezero, arrays", "gains", rezero, squares(3, gain=[0, 0, 0]), given="arrays"),
  jax_model("rezero, shapes", "gains", rezero, squares(3, gain=[0, 0, 0]), finding=GAIN),
  jax_model("gains of 1, arrays", "gains", layer_scale, squares(7, gain=[1, 1, 1]), given="arrays"),
  jax_model("gains of 1, shapes", "gains", layer_scale, squares(7, gain=[1, 1, 1]), finding=GAIN),
  jax_model("gains of 0.1, shapes", "gains", layer_scale, squares(7, gain=[0.1] * 3), finding=GAIN),
  jax_model("blends, arrays", "blends", convex, squares(7, blend=[0.0] * 3), given="arrays"),
  jax_model("blends, shapes", "blends", convex, squares(7, blend=[2.0] * 3), finding=GAIN),
  jax_model("scaled left and right", "scaled sums", scaled_left_and_right, squares(7)),
  jax_model("factor on the input", "scaled sums", factor_on_the_input, squares(4)),
  models.linen("skipinit, arrays", "gains", SkipInit, VECTORS, given="arrays"),
  models.linen("skipinit, shapes", "gains", SkipInit, VECTORS, finding=GAIN),
  models.linen("layer scale, arrays", "gains", LayerScale, VECTORS, given="arrays"),
  models.linen("layer scale, shapes", "gains", LayerScale, VECTORS, finding=GAIN),
  models.linen("post-norm sums", "post-norm", PostNorm, VECTORS),
  models.nnx("residual, nnx", "residual", NnxResidual, VECTORS),
  models.equinox("residual, equinox", "residual", equinox_residual, equinox_apply, HIDDEN),
  jax_model("ensemble of logits", "ensemble", ensemble_of_logits, stacked_members, VECTORS),
  jax_model("two towers", "several inputs", two_towers, squares(8), TWO, activation=TANH),
]
