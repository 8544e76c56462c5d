"""Haiku models, each beside its maximising function f(x, r), derived by hand."""

import functools
import itertools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
from models import KEY, REST, Model, W, filled, residual_maximum, times

import tatnet


def haiku(name, forward, shape, maximum, warns="", **kwargs):
  def trace(x):
    return tatnet.trace(forward, x, **kwargs)

  def run(activation, x):
    init = hk.transform_with_state(lambda x: forward(x, activation=jnp.tanh, **kwargs)).init
    network = hk.transform_with_state(lambda x: forward(x, activation=activation, **kwargs))
    return network.apply(*filled(jax.eval_shape(init, KEY, x)), KEY, x)[0]

  return Model(name, shape, trace, run, maximum, warns)


def mlp(x, activation):
  for width in (16, 12, 8, 8):
    x = activation(hk.Linear(width)(x))
  return hk.Linear(3)(x)


def all_conv(x, activation):
  x = activation(hk.Conv2D(8, 3, stride=2)(x))
  x = activation(hk.Conv2D(8, 3, rate=2, with_bias=False)(x))
  x = activation(hk.Conv2D(8, 3, feature_group_count=4)(x))
  x = activation(hk.DepthwiseConv2D(2, 3)(x))
  x = activation(hk.Conv2D(12, 1)(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))))
  x = activation(hk.Conv2DTranspose(6, 3, stride=2)(x[:, 1:-1]))
  x = jnp.einsum("bijc,cd->bijd", x, hk.get_parameter("w", (6, 5), init=jnp.ones))
  return jnp.mean(hk.Conv2D(10, 3, padding="VALID")(activation(x)), axis=(1, 2))


def vgg(x, activation, is_training):
  for width in (6, 8):
    for _ in range(2):
      x = activation(hk.Conv2D(width, 3)(x))
    x = hk.max_pool(x, (2, 2, 1), (2, 2, 1), "SAME")
  x = activation(hk.Linear(16)(hk.Flatten()(x)))
  if is_training:
    x = hk.dropout(hk.next_rng_key(), 0.5, x)
  return hk.Linear(3)(activation(hk.Linear(16)(x)))


def vgg_maximum(is_training):
  """Half of a cosine is left by dropout; what begins behind it has lost nothing."""

  def maximum(x, r):
    five = times(5, r, x)
    return max(five, r(max(x, five / 2))) if is_training else r(five)

  return maximum


def resnet(x, activation, *, version, weight, kernels, projects, stages):
  rest = math.sqrt(1 - weight**2)
  x = hk.Conv2D(8, 3)(x)
  x = activation(x) if version == 1 else x
  for stage, block in [(s, b) for s, count in enumerate(stages) for b in range(count)]:
    conv = functools.partial(hk.Conv2D, 8 + 4 * stage if projects else 8)
    start = activation(x) if version == 2 else x
    shortcut = conv(1)(start) if projects and block == 0 else x
    y = conv(kernels[0])(start)
    for kernel in kernels[1:]:
      y = conv(kernel)(activation(y))
    x = weight * shortcut + rest * y if weight else y
    x = activation(x) if version == 1 else x
  x = activation(x) if version == 2 else x
  return hk.Linear(3)(jnp.mean(x, axis=(1, 2)))


def resnet_maximum(x, r, *, version, weight, kernels, projects, stages):
  start, m, w = x, len(kernels), weight**2
  if version == 1:
    x = r(x)
    for _ in range(sum(stages)):
      x = r(w * x + (1 - w) * times(m - 1, r, x))
    return max(x, times(m - 1, r, start))
  for count in stages:
    for block in range(count):
      shortcut = r(x) if projects and block == 0 else x
      x = w * shortcut + (1 - w) * times(m, r, x)
  return max(r(x), times(m, r, start))


def resnets():
  kinds = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
  for version, weight, projects, kind in itertools.product((1, 2), (0, 0.5, 0.9), (0, 1), kinds):
    options = {"version": version, "weight": weight, "kernels": kinds[kind], "projects": projects}
    options["stages"] = (2, 1, 1, 1) if projects else (2, 1)
    name = f"resnet v{version} {kind} w={weight}{' projections' * projects}"
    maximum = functools.partial(resnet_maximum, **options)
    # Version 1 adds the output of an activation to a branch with weights.
    warns = "activated term" if version == 1 and weight else ""
    yield haiku(name, resnet, (2, 6, 6, 3), maximum, warns, **options)


def densenet(x, activation):
  x = hk.Conv2D(10, 3)(x)
  for growth in (4, 6, 3):
    x = jnp.concatenate([x, hk.Conv2D(growth, 3)(activation(x))], axis=-1)
  x = hk.avg_pool(hk.Conv2D(12, 1)(activation(x)), (2, 2, 1), (2, 2, 1), "SAME")
  x = jnp.concatenate([hk.Conv2D(5, 3)(activation(x)), x], axis=-1)
  return hk.Linear(3)(jnp.mean(activation(x), axis=(1, 2)))


def densenet_maximum(x, r):
  channels = 10
  for growth in (4, 6, 3):
    x = (channels * x + growth * r(x)) / (channels + growth)
    channels += growth
  x = r(x)
  return r((5 * r(x) + 12 * x) / 17)  # above r(x), the most that a branch reaches


def mixer(x, activation):
  def norm(x):
    return hk.RMSNorm(-1)(x)

  x = hk.Conv2D(8, 2, stride=2)(x)
  x = x.reshape(x.shape[0], -1, x.shape[-1])
  for _ in range(2):
    y = hk.Linear(5)(jnp.swapaxes(norm(x), 1, 2))
    x = W * x + REST * jnp.swapaxes(hk.Linear(x.shape[1])(activation(y)), 1, 2)
    x = W * x + REST * hk.Linear(8)(activation(hk.Linear(12)(norm(x))))
  return hk.Linear(3)(jnp.mean(norm(x), axis=1))


def unet(x, activation):
  top = activation(hk.Conv2D(6, 3)(x))
  middle = activation(hk.Conv2D(8, 3, stride=2)(top))
  bottom = activation(hk.Conv2D(9, 3, stride=2)(middle))
  up = hk.Conv2DTranspose(5, 3, stride=2)(bottom)
  up = activation(hk.Conv2D(7, 3)(jnp.concatenate([middle, up], axis=-1)))
  up = jax.image.resize(up, (*top.shape[:-1], 7), "nearest")
  up = jnp.concatenate([hk.Conv2D(4, 3)(up), top], axis=-1)
  return hk.Conv2D(2, 1)(activation(hk.Conv2D(6, 3)(up)))


def unet_maximum(x, r):
  top = r(x)
  middle = r(top)
  inner = r((8 * middle + 5 * r(middle)) / 13)
  # Cut out: the branch that skips nothing (from `top`), which is also a subnetwork.
  whole, branch = r((4 * inner + 6 * top) / 10), r((8 * r(x) + 5 * r(r(x))) / 13)
  return max(whole, branch)


def stacked(x, activation):
  def block(x):
    x = hk.Linear(8)(activation(x))
    return W * x + REST * hk.Linear(8)(activation(x))

  x = hk.experimental.layer_stack(5)(block)(hk.Linear(8)(x))
  return hk.Linear(3)(activation(x))


def stacked_maximum(x, r):
  for _ in range(5):
    x = r(x)
    x = W**2 * x + REST**2 * r(x)
  return r(x)


def rematerialised(x, activation):
  def block(x):
    return W * x + REST * hk.Linear(8)(activation(hk.Linear(8)(activation(x))))

  x = hk.Linear(8)(x)
  for _ in range(2):
    x = hk.remat(block)(x)
  return hk.Linear(3)(activation(x))


def rematerialised_maximum(x, r):
  start = x
  for _ in range(2):
    x = W**2 * x + REST**2 * r(r(x))
  return max(r(x), r(r(start)))


def half_precision(x, activation):
  class Half(hk.Linear):
    pass

  x = hk.Linear(8)(x)
  with hk.mixed_precision.push_policy(Half, jmp.get_policy("params=f32,compute=bf16,output=f32")):
    for _ in range(2):
      x = W * x + REST * Half(8)(activation(Half(8)(x).astype(jnp.bfloat16)))
  return hk.Linear(3)(activation(x.astype(jnp.float16))).astype(jnp.float32)


def stateful(x, activation):
  calls = hk.get_state("calls", (), jnp.int32, init=jnp.zeros)
  hk.set_state("calls", calls + 1)
  x = activation(hk.Linear(8)(x))
  hk.ExponentialMovingAverage(0.9, name="size")(jnp.mean(jnp.square(x)))
  hk.ExponentialMovingAverage(0.9, name="values")(x)
  return hk.Linear(3)(activation(hk.Linear(8)(x)))


MODELS = [
  haiku("mlp", mlp, (4, 5), lambda x, r: times(4, r, x)),
  haiku("all-conv", all_conv, (2, 12, 12, 4), lambda x, r: times(7, r, x), "transposed|depthwise"),
  *(
    haiku(f"vgg {mode}", vgg, (2, 8, 8, 3), vgg_maximum(mode), "max pooling", is_training=mode)
    for mode in (False, True)
  ),
  *resnets(),
  haiku("densenet", densenet, (2, 6, 6, 3), densenet_maximum, "averaging between"),
  haiku("mixer", mixer, (2, 6, 6, 3), residual_maximum(4)),
  haiku("u-net", unet, (2, 8, 8, 3), unet_maximum, "transposed convolution"),
  haiku("stacked", stacked, (4, 5), stacked_maximum),
  haiku("remat", rematerialised, (4, 5), rematerialised_maximum),
  haiku("half precision", half_precision, (4, 5), residual_maximum(2, final=1)),
  haiku("stateful", stateful, (4, 5), lambda x, r: times(2, r, x)),
]
