"""Taps at the layers of a model of Equinox, which sees one example at a time."""

import dataclasses
import inspect
from typing import Any

import equinox as eqx
import jax

from tatnet.optim.equinox_layers import NORMALIZATIONS, is_layer, name_of
from tatnet.optim.layer_taps import LayerTaps
from tatnet.optim.patches import window_of
from tatnet.optim.runs import Run


def is_model(network: Any) -> bool:
  """Whether it is one of Equinox."""
  return isinstance(network, eqx.Module)


class _Tapped(eqx.Module):
  """A layer with taps around it."""

  layer: eqx.Module
  name: str = eqx.field(static=True)
  taps: LayerTaps = eqx.field(static=True)

  def __getattr__(self, name: str) -> Any:
    return getattr(self.layer, name)

  def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> Any:
    layer = self.layer
    if self.name not in self.taps.taps:
      return layer(x, *args, **kwargs)
    if isinstance(layer, NORMALIZATIONS):
      return self._normalized(x, *args, **kwargs)
    if isinstance(layer, eqx.nn.Embedding):
      return self.taps.table(self.name, lambda ids: layer(ids, *args, **kwargs), x)
    reason = _unsupported(layer, x)
    if reason is not None:
      self.taps.refuse(self.name, reason)
      return layer(x, *args, **kwargs)
    window, channel_axis = None, -1
    if isinstance(layer, eqx.nn.Conv):
      window = window_of(
        x.shape[1:], layer.kernel_size, layer.stride, layer.padding, layer.dilation
      )
      channel_axis = -1 - layer.num_spatial_dims
    return self.taps.affine(
      self.name,
      lambda x: layer(x, *args, **kwargs),
      x,
      with_bias=layer.bias is not None,
      window=window,
      channel_axis=channel_axis,
    )

  def _normalized(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    scale, offset = self.layer.weight, self.layer.bias
    if isinstance(self.layer, eqx.nn.GroupNorm) and scale is not None:
      self.taps.refuse(self.name, "is a GroupNorm with a scale and an offset")
      return self.layer(x, *args, **kwargs)
    bare = _without_parameters(self.layer)
    return self.taps.normalization(self.name, lambda x: bare(x, *args, **kwargs), x, scale, offset)


def _without_parameters(layer: eqx.Module) -> eqx.Module:
  """The same normalisation with scale 1 and offset 0."""
  bare = object.__new__(type(layer))
  for field in dataclasses.fields(layer):
    changed = {"weight": None, "bias": None, "use_weight": False, "use_bias": False}
    value = changed[field.name] if field.name in changed else getattr(layer, field.name)
    object.__setattr__(bare, field.name, value)
  return bare


def _unsupported(layer: eqx.Module, x: jax.Array) -> str | None:
  if isinstance(layer, eqx.nn.Linear):
    return "has scalar inputs or outputs" if "scalar" in _sizes(layer) else None
  if isinstance(layer, eqx.nn.Conv):
    if layer.groups != 1:
      return f"is a convolution of {layer.groups} groups"
    if layer.padding_mode.upper() != "ZEROS":
      return f"has padding_mode={layer.padding_mode!r}; expected zeros"
    if x.ndim != layer.num_spatial_dims + 1:
      return f"is a convolution of inputs {x.shape}; expected [channels, *space]"
  return None


def _sizes(layer: eqx.nn.Linear) -> tuple[Any, Any]:
  return layer.in_features, layer.out_features


@dataclasses.dataclass
class EquinoxRun(Run):
  """A model of Equinox, mapped over the examples; those of a state see the axis "batch"."""

  def apply(self, params, taps, inputs, kwargs):
    """Calls the model for every example, with a key of its own if it takes one."""
    own = LayerTaps(self.observer, taps, self.problems)
    model = eqx.combine(params, self.model)
    model = jax.tree.map_with_path(
      lambda path, node: _Tapped(node, name_of(path), own) if is_layer(node) else node,
      model,
      is_leaf=is_layer,
    )
    keys = ()
    if self.key is not None and "key" in inspect.signature(type(self.model).__call__).parameters:
      keys = (jax.random.split(self.key, self.observer.batch),)

    def of_one(state, key, *inputs):
      key = {"key": key[0]} if key else {}
      if state is None:
        return model(*inputs, **key, **kwargs), None
      return model(*inputs, state, **key, **kwargs)

    outputs, state = jax.vmap(
      of_one, in_axes=(None, 0, *(0 for _ in inputs)), out_axes=(0, None), axis_name="batch"
    )(self.state, keys, *inputs)
    return outputs, {} if state is None else state


MODEL_RUN = EquinoxRun
