"""Taps at the layers of an unchanged Haiku model."""

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from tatnet.optim.blocks import is_dense
from tatnet.optim.dummies import Plan, Tap
from tatnet.optim.patches import window_of
from tatnet.optim.runs import Run, Shapes
from tatnet.optim.taps import Observer
from tatnet.optim.uses import Look

_TAP = "kfac_tap"
_NUMBER = "_of_tap_"
_NORMALIZATIONS = (hk.LayerNorm, hk.BatchNorm, hk.GroupNorm, hk.InstanceNorm, hk.RMSNorm)


class _Tap(hk.Module):
  """Dummy arguments of a layer, as parameters, so that they are stacked where the layer is."""

  def __call__(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return hk.get_parameter(name, shape, dtype, init=jnp.zeros)


class TappedModel:
  """A Haiku model with taps at every layer that K-FAC knows.

  The taps' dummies are parameters of their own, ``<layer>/kfac_tap``, which
  `merged` adds to the model's.
  """

  def __init__(self, observer: Observer, state: Mapping[str, Mapping]):
    self.observer = observer
    self.state = state
    self.problems: dict[str, str] = {}
    self._plans: list[Plan] = []
    self._look = Look()

  @contextlib.contextmanager
  def installed(self, taps: Mapping[str, Tap]):
    """A context in which the model's layers have taps: those given, and in `init` all."""
    self._plans = [tap.plan for tap in taps.values()]
    # Factors stay in full precision whatever the model computes in.
    policy = jmp.Policy(*[self.observer.dtype] * 3)
    with hk.mixed_precision.push_policy(_Tap, policy), hk.intercept_methods(self._intercept):
      yield

  def _intercept(self, next_f: Callable, args, kwargs, context) -> Any:
    module, method = context.module, context.method_name
    if method != "__init__" and hk.running_init():
      self._restore_state(module)
    layer = _LAYERS.get(type(module)) if method == "__call__" else None
    reason = None if layer is None else _unsupported(module, args)
    if layer is None or reason is not None:
      y = next_f(*args, **kwargs)
    else:
      y = layer(self, module, lambda *new: next_f(*new, *args[1:], **kwargs), *args[:1])
      if hk.running_init() and any(p.is_changed for p in _own_parameters(module)):
        reason = "has parameters that a custom getter changes"
    if reason is not None and hk.running_init():
      self.problems |= dict.fromkeys((own.path for own in _own_parameters(module)), reason)
    return y

  def _restore_state(self, module: hk.Module):
    """The state given, in `init`: not all modules make their own there outside training."""
    name = module.module_name
    state = self.state.get(name)
    if state is None:  # inside a stack of layers, modules do not know the path in front of it
      stacked = [arrays for key, arrays in self.state.items() if key.endswith(f"/{name}")]
      state = {key: value[0] for key, value in stacked[0].items()} if stacked else {}
    for key, value in state.items():
      hk.set_state(key, value)

  def _tap(self, shapes: Mapping[str, tuple]) -> Tap:
    """The tap of the layer that is being called; empty if it has none."""
    module = _Tap(name=_TAP)
    if hk.running_init():
      arrays = {key: module(key, shape, self.observer.dtype) for key, shape in shapes.items()}
      return Tap(arrays, Plan(look=self._look))
    arrays, plan = {}, Plan(look=self._look)
    for path, array in module.params_dict().items():
      name, _, number = path.rpartition("/")[2].partition(_NUMBER)
      arrays[name] = array
      if number:  # none within `init`, where layers of a stack are run as well
        plan = self._plans[int(number)]
    return Tap(arrays, plan)

  def _side(self, size: int, bias: int = 0) -> tuple[int, ...]:
    """Shape of a moment."""
    whole = size + bias
    return (whole, whole) if is_dense(size, self.observer.dense_up_to) else (whole,)

  def affine(self, module: hk.Module, call: Callable, x: jax.Array) -> jax.Array:
    """A dense layer or a convolution."""
    window, inputs = None, x.shape[-1]
    if isinstance(module, hk.ConvND):
      window = window_of(
        x.shape[1:-1], module.kernel_shape, module.stride, module.padding, module.kernel_dilation
      )
      inputs *= math.prod(module.kernel_shape)
    outputs = module.output_channels if window is not None else module.output_size
    bias = module.with_bias
    tap = self._tap({"inputs": self._side(inputs, bias), "outputs": self._side(outputs)})
    x = self.observer.inputs(x, tap, with_bias=module.with_bias, window=window)
    return self.observer.outputs(call(x), tap)

  def normalization(self, module: hk.Module, call: Callable, x: jax.Array) -> jax.Array:
    """A normalisation: it runs with scale 1 and offset 0, its own are applied to the result."""
    own: dict[str, jax.Array] = {}
    if not hk.running_init() and any(p.is_changed for p in _own_parameters(module)):
      return call(x)  # it is among the problems

    def capture(next_getter, value, context):
      value = next_getter(value)
      if context.module is not module or context.name not in ("scale", "offset"):
        return value
      own[context.name] = value
      return jnp.ones_like(value) if context.name == "scale" else jnp.zeros_like(value)

    with hk.custom_getter(capture):
      x = call(x)
    tap = self._tap({key: value.shape for key, value in own.items()})
    return self.observer.scale_and_offset(x, own.get("scale"), own.get("offset"), tap)

  def embedding(self, module: hk.Embed, call: Callable, ids: jax.Array) -> jax.Array:
    """A table of embeddings."""
    width = module.embed_dim
    tap = self._tap({"inputs": (module.vocab_size,), "outputs": self._side(width)})
    return self.observer.looked_up(jnp.asarray(ids), call(ids), tap)


_LAYERS: Mapping[type, Callable] = {
  **dict.fromkeys((hk.Linear, hk.Conv1D, hk.Conv2D, hk.Conv3D, hk.ConvND), TappedModel.affine),
  **dict.fromkeys(_NORMALIZATIONS, TappedModel.normalization),
  hk.Embed: TappedModel.embedding,
}


def _unsupported(module: hk.Module, args: tuple) -> str | None:
  """Why a layer of a known kind cannot be tapped."""
  if not args:
    return "gets its input by keyword"
  if isinstance(module, hk.ConvND):
    if module.feature_group_count != 1:
      return f"is a convolution of {module.feature_group_count} groups"
    if module.mask is not None:
      return "is a convolution with a mask"
    if module.channel_index != -1:
      return f"has data_format={module.data_format!r}; channels must come last"
    if any(dilation != 1 for dilation in module.lhs_dilation):
      return "is a convolution with dilated inputs"
    if args[0].ndim != module.num_spatial_dims + 2:
      return f"is a convolution of inputs {args[0].shape}, which have no batch"
  return None


class _Parameter(NamedTuple):
  """A parameter of a layer: path of the layer, raw value, whether a custom getter changes it."""

  path: str
  value: jax.Array
  is_changed: bool


def _own_parameters(module: hk.Module) -> list[_Parameter]:
  """Parameters of a layer that has been called, without those of modules in it."""
  found = []
  for key, value in module.params_dict().items():
    path, _, name = key.rpartition("/")
    if path == module.module_name:
      found.append(_parameter(name, value))
  return found


def _parameter(name: str, value: jax.Array) -> _Parameter:
  probe, contexts, given = jnp.zeros_like(value), [], []

  def innermost(next_getter, value, context):
    if context.name != name:  # one that another getter asks for
      return next_getter(value)
    contexts.append(context)
    given.append(value)
    return probe

  with hk.custom_getter(innermost):
    got = hk.get_parameter(name, value.shape, value.dtype)
  # Another precision is no other weight.
  is_changed = any(
    new is not old and new.dtype == old.dtype for new, old in ((given[0], value), (got, probe))
  )
  # Inside a stack of layers, modules do not know the path in front of it.
  full_name = (contexts[0].lifted_prefix_name or "") + contexts[0].full_name
  return _Parameter(full_name.rpartition("/")[0], value, is_changed)


def split_taps(params: Mapping) -> tuple[dict, dict[str, Mapping]]:
  """Parameters without the taps, and the taps by the layer they stand at."""
  own = {name: arrays for name, arrays in params.items() if not _is_tap(name)}
  taps = {name.removesuffix(f"/{_TAP}"): arrays for name, arrays in params.items() if _is_tap(name)}
  return own, taps


def merged(params: Mapping, taps: Mapping[str, Tap]) -> dict:
  """Parameters and the taps' dummies, as the tapped model wants them.

  Inside a stack of layers, modules do not know their whole path. So the names of the
  dummies say which tap they belong to.
  """
  dummies = {
    f"{name}/{_TAP}": {f"{key}{_NUMBER}{i}": array for key, array in tap.arrays.items()}
    for i, (name, tap) in enumerate(taps.items())
  }
  return {**params, **dummies}


def _is_tap(name: str) -> bool:
  return name.endswith(f"/{_TAP}")


@dataclasses.dataclass
class HaikuRun(Run):
  """A Haiku model, or anything with such an `init` and `apply`."""

  def __post_init__(self):
    self._is_stateless = isinstance(self.model, hk.Transformed)
    if self.state is None and not self._is_stateless:
      self.state = {}
    self._tapped = TappedModel(self.observer, self.state or {})
    is_haiku = isinstance(self.model, hk.Transformed | hk.TransformedWithState)
    names = inspect.signature(self.model.apply).parameters if is_haiku else ("rng",)
    self._takes_key = "rng" in names  # hk.without_apply_rng takes it away

  def dummies(self) -> Shapes:
    """Of the layers that run in the model's `init`."""
    key = jax.random.key(0)

    def init():
      made = self.model.init(key, *self.inputs, **self.kwargs)
      return made if self._is_stateless else made[0]

    with self._tapped.installed({}):
      _, taps = split_taps(jax.eval_shape(init))
    shapes = {
      name: {key: tuple(tap.shape) for key, tap in arrays.items()} for name, arrays in taps.items()
    }
    self.problems |= self._tapped.problems
    return shapes

  def apply(self, params, taps, inputs, kwargs):
    """Calls the model with its taps' dummies among the parameters."""
    state = () if self._is_stateless else (self.state,)
    key = (self.key,) if self._takes_key else ()
    with self._tapped.installed(taps):
      result = self.model.apply(merged(params, taps), *state, *key, *inputs, **kwargs)
    return (result, {}) if self._is_stateless else result
