"""Taps at the layers of a model of Flax NNX."""

import contextvars
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from tatnet.optim.layer_taps import LayerTaps
from tatnet.optim.layers import path_of
from tatnet.optim.linen_taps import unsupported_convolution
from tatnet.optim.patches import window_of
from tatnet.optim.runs import Run

_NORMALIZATIONS = (nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.BatchNorm)
_active: contextvars.ContextVar[LayerTaps] = contextvars.ContextVar("layer_taps")


def is_model(network: Any) -> bool:
  """Whether it is one of Flax NNX."""
  return isinstance(network, nnx.Module)


@dataclasses.dataclass
class NnxRun(Run):
  """A module of Flax NNX; its parameters are ``nnx.state(model, nnx.Param)``.

  All else that the module holds is its state: as given, or as it is in the module.
  """

  def apply(self, params, taps, inputs, kwargs):
    """Calls a copy of the model."""
    model = nnx.clone(self.model)
    nnx.update(model, params)
    if self.state is not None:
      nnx.update(model, self.state)
    for path, _ in jax.tree.leaves_with_path(nnx.state(model, nnx.Param)):
      names = path_of(path)[:-1]
      layer = functools.reduce(_part, names, model)
      if type(layer) in _LAYERS:
        layer.kfac_name = "/".join(names)
        layer.__class__ = _tapped(type(layer))
    token = _active.set(LayerTaps(self.observer, taps, self.problems))
    try:
      outputs = model(*inputs, **kwargs)
    finally:
      _active.reset(token)
    return outputs, nnx.state(model, nnx.Not(nnx.Param))


def _part(module: Any, name: str) -> Any:
  if name.isdigit() and not hasattr(module, name):
    return module[int(name)]
  return module[name] if isinstance(module, Mapping) else getattr(module, name)


@functools.cache
def _tapped(kind: type) -> type:
  """The kind of layer with taps around its call."""

  def call(self, x, *args, **kwargs):
    own, run = _active.get(), functools.partial(kind.__call__, self)
    if self.kfac_name not in own.taps:
      return run(x, *args, **kwargs)
    return _LAYERS[kind](own, self, lambda x: run(x, *args, **kwargs), x)

  return type(kind.__name__, (kind,), {"__call__": call})


def _linear(own: LayerTaps, layer: nnx.Linear, call: Callable, x: jax.Array) -> jax.Array:
  return own.affine(layer.kfac_name, call, x, with_bias=layer.bias is not None)


def _linear_general(own: LayerTaps, layer, call: Callable, x: jax.Array) -> jax.Array:
  axes = layer.axis if isinstance(layer.axis, tuple) else (layer.axis,)
  if layer.batch_axis or sorted(a % x.ndim for a in axes) != list(range(x.ndim))[-len(axes) :]:
    own.refuse(layer.kfac_name, f"contracts the axes {axes}; expected the last ones")
    return call(x)
  outputs = layer.out_features if isinstance(layer.out_features, tuple) else (layer.out_features,)
  return own.affine(
    layer.kfac_name,
    call,
    x,
    with_bias=layer.bias is not None,
    axes=(len(axes), len(outputs)),
  )


def _convolution(own: LayerTaps, layer: nnx.Conv, call: Callable, x: jax.Array) -> jax.Array:
  size = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,)
  reason = unsupported_convolution(layer, x, len(size))
  if reason is not None:
    own.refuse(layer.kfac_name, reason)
    return call(x)
  window = window_of(
    x.shape[-1 - len(size) : -1],
    size,
    layer.strides or 1,
    layer.padding,
    layer.kernel_dilation or 1,
  )
  return own.affine(layer.kfac_name, call, x, with_bias=layer.bias is not None, window=window)


def _embedding(own: LayerTaps, layer: nnx.Embed, call: Callable, ids: jax.Array) -> jax.Array:
  return own.table(layer.kfac_name, call, ids)


def _normalization(own: LayerTaps, layer: Any, call: Callable, x: jax.Array) -> jax.Array:
  """It runs without parameters, which are put back."""
  held = {key: vars(layer).get(key) for key in ("scale", "bias")}
  scale, offset = (None if v is None else v[...] for v in held.values())

  def run(x):
    for key in held:
      vars(layer)[key] = None
    y = call(x)
    vars(layer).update(held)
    return y

  return own.normalization(layer.kfac_name, run, x, scale, offset)


_LAYERS: Mapping[type, Callable] = {
  nnx.Linear: _linear,
  nnx.LinearGeneral: _linear_general,
  nnx.Conv: _convolution,
  nnx.Embed: _embedding,
  **dict.fromkeys(_NORMALIZATIONS, _normalization),
}
MODEL_RUN = NnxRun
