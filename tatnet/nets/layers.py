"""Layers of the networks: affine maps and normalisation, as the options ask for them."""

import contextlib

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.initializers import ScaledUniformOrthogonal
from tatnet.nets.gaussian import HeNormal
from tatnet.nets.options import Options
from tatnet.nets.plan import Layer


def affine(
  options: Options, layer: Layer, x: jax.Array, *, name: str, in_branch: bool = False
) -> jax.Array:
  """A convolution or a dense layer; without biases where normalisation would undo them."""
  w_init = (options.branch_init if in_branch else None) or options.w_init
  if w_init is None and options.is_shaped:
    w_init = ScaledUniformOrthogonal(scale=options.activation.weight_scale or 1.0)
  settings = {
    "with_bias": layer.with_bias and options.normalization not in ("batch", "layer"),
    "w_init": HeNormal() if w_init is None else w_init,
    "b_init": _bias_initializer(options),
    "name": name,
  }
  with _weights(options):
    if layer.window is None:
      return hk.Linear(layer.channels, **settings)(x)
    return hk.Conv2D(layer.channels, layer.window, stride=layer.stride, **settings)(x)


def logits(options: Options, x: jax.Array, num_classes: int) -> jax.Array:
  """The last layer, which has no activation behind it."""
  w_init = ScaledUniformOrthogonal() if options.is_shaped else None  # None: variance 1 / inputs
  with _weights(options):
    return hk.Linear(num_classes, w_init=w_init, name="logits")(x)


def normalize(options: Options, x: jax.Array, is_training: bool, *, name: str) -> jax.Array:
  """Batch or layer normalisation, where the options ask for one."""
  if options.normalization == "batch":
    return hk.BatchNorm(True, True, decay_rate=0.9, name=name)(x, is_training)
  if options.normalization == "layer":
    return hk.LayerNorm(-1, True, True, param_axis=-1, name=name)(x)
  return x


def _bias_initializer(options: Options) -> hk.initializers.Initializer:
  """Zeros, or the random biases of the edge of chaos."""
  scale = options.activation.bias_scale if options.is_shaped else None
  return hk.initializers.RandomNormal(scale) if scale else jnp.zeros


def _weights(options: Options):
  """A context in which weights are made as the options ask."""
  if options.normalization == "weight":
    return hk.custom_getter(_direction_and_length)
  return contextlib.nullcontext()


def _direction_and_length(next_getter, value, context):
  """``g v / |v|`` for each output, with g = |v| at initialisation."""
  value = next_getter(value)
  if context.name != "w":
    return value
  axes = tuple(range(value.ndim - 1))
  length = jnp.sqrt(jnp.sum(jnp.square(value), axes, keepdims=True))
  init = hk.initializers.Constant(length)
  gain = hk.get_parameter("g", length.shape, value.dtype, init=init)
  return value * (gain / length)
