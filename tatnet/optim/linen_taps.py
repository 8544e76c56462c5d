"""Taps at the layers of an unchanged model of Flax linen."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from tatnet.optim.layer_taps import LayerTaps
from tatnet.optim.patches import window_of
from tatnet.optim.runs import Run

_NORMALIZATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm)


def is_model(network: Any) -> bool:
  """Whether it is one of Flax linen."""
  return isinstance(network, nn.Module)


@dataclasses.dataclass
class LinenRun(Run):
  """A module of Flax linen; its parameters are ``variables["params"]``, or {"params": ...}.

  The other collections are its state.
  """

  def apply(self, params, taps, inputs, kwargs):
    """Calls the model; a key serves all of its random streams."""
    is_whole = isinstance(params, Mapping) and set(params) == {"params"}
    variables = {**(self.state or {}), "params": params["params"] if is_whole else params}
    own = LayerTaps(self.observer, taps, self.problems)
    prefix = ("params",) if is_whole else ()

    def intercept(next_f, args, kwargs, context):
      module = context.module
      layer = _LAYERS.get(type(module)) if context.method_name == "__call__" and args else None
      name = "/".join((*prefix, *module.path))
      if layer is None or name not in taps:
        return next_f(*args, **kwargs)
      x, *rest = args
      return layer(own, name, module, lambda x: next_f(x, *rest, **kwargs), x, rest, kwargs)

    rngs = {}
    if self.key is not None:
      first, second = jax.random.split(self.key)
      rngs = {"params": first, "dropout": second}  # linen takes other streams from the first
    with nn.intercept_methods(intercept):
      result = self.model.apply(
        variables, *inputs, rngs=rngs, mutable=list(self.state or {}), **kwargs
      )
    return result if isinstance(result, tuple) and self._has_state() else (result[0], {})

  def _has_state(self) -> bool:
    return bool(self.state)


def _dense(own: LayerTaps, name: str, module: nn.Dense, call: Callable, x: jax.Array, *_):
  return own.affine(name, call, x, with_bias=module.use_bias)


def _dense_general(own: LayerTaps, name: str, module, call: Callable, x: jax.Array, *_):
  axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
  features = module.features if isinstance(module.features, tuple) else (module.features,)
  if module.batch_dims or sorted(a % x.ndim for a in axes) != list(range(x.ndim))[-len(axes) :]:
    own.refuse(name, f"contracts the axes {axes}; expected the last ones, and no batch_dims")
    return call(x)
  return own.affine(name, call, x, with_bias=module.use_bias, axes=(len(axes), len(features)))


def _convolution(own: LayerTaps, name: str, module: nn.Conv, call: Callable, x: jax.Array, *_):
  size = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,)
  reason = unsupported_convolution(module, x, len(size))
  if reason is not None:
    own.refuse(name, reason)
    return call(x)
  window = window_of(
    x.shape[-1 - len(size) : -1],
    size,
    module.strides or 1,
    module.padding,
    module.kernel_dilation or 1,
  )
  return own.affine(name, call, x, with_bias=module.use_bias, window=window)


def unsupported_convolution(module: Any, x: jax.Array, space: int) -> str | None:
  """Why a convolution of Flax cannot have taps."""
  if module.feature_group_count != 1:
    return f"is a convolution of {module.feature_group_count} groups"
  if module.mask is not None:
    return "is a convolution with a mask"
  dilation = module.input_dilation or 1
  if any(d != 1 for d in (dilation if isinstance(dilation, tuple) else (dilation,))):
    return "is a convolution with dilated inputs"
  padding = module.padding
  is_known = padding in ("SAME", "VALID") if isinstance(padding, str) else _are_pairs(padding)
  if not is_known:
    return f"has padding={padding!r}; expected 'SAME', 'VALID' or pairs"
  if x.ndim < space + 1:
    return f"is a convolution of inputs {x.shape}; expected [..., *space, channels]"
  return None


def _are_pairs(padding: Any) -> bool:
  return all(isinstance(p, tuple | list) and len(p) == 2 for p in padding)


def _embedding(own: LayerTaps, name: str, _: nn.Embed, call: Callable, ids: jax.Array, *__):
  return own.table(name, call, ids)


def _normalization(own: LayerTaps, name: str, module, call: Callable, x, rest, kwargs):
  """A copy without parameters runs, and its statistics are kept."""
  parameters = module.variables["params"]
  scale, offset = parameters.get("scale"), parameters.get("bias")
  flags = {"use_scale": False} | ({} if isinstance(module, nn.RMSNorm) else {"use_bias": False})
  bare = module.clone(parent=None, name=None, **flags)
  statistics = module.variables.get("batch_stats", {})
  if getattr(module, "axis", getattr(module, "feature_axes", -1)) not in (-1, (-1,)):
    own.refuse(name, "has features on another axis than the last")
    return call(x)

  def run(x):
    y, changed = bare.apply(
      {"batch_stats": statistics} if statistics else {}, x, *rest, mutable=["batch_stats"], **kwargs
    )
    if module.is_mutable_collection("batch_stats"):
      for key, value in changed.get("batch_stats", {}).items():
        module.put_variable("batch_stats", key, value)
    return y

  return own.normalization(name, run, x, scale, offset)


_LAYERS: Mapping[type, Callable] = {
  nn.Dense: _dense,
  nn.DenseGeneral: _dense_general,
  nn.Conv: _convolution,
  nn.Embed: _embedding,
  **dict.fromkeys(_NORMALIZATIONS, _normalization),
}
MODEL_RUN = LinenRun
