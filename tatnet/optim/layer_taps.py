"""Taps around the layers of a library, whatever the library calls them."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax

from tatnet.optim.dummies import Tap
from tatnet.optim.patches import Window
from tatnet.optim.taps import Observer

Call = Callable[[jax.Array], jax.Array]
_SHAPES = "has weights of the shape {}, not of one layer {}: stacks of layers are not taken apart"


@dataclasses.dataclass
class LayerTaps:
  """Taps by the paths of layers; a layer without one runs as it is.

  Attributes:
    observer: of the model.
    taps: by path.
    problems: why layers cannot have taps, by path; filled as they run.
  """

  observer: Observer
  taps: Mapping[str, Tap]
  problems: dict[str, str]

  def affine(
    self,
    name: str,
    call: Call,
    x: jax.Array,
    *,
    with_bias: bool,
    window: Window | None = None,
    channel_axis: int = -1,
    axes: tuple[int, int] = (1, 1),
  ) -> jax.Array:
    """A dense layer or a convolution.

    Args:
      name: path of the layer.
      call: the layer itself.
      x: its inputs.
      with_bias: whether it has one.
      window: of a convolution.
      channel_axis: of a convolution.
      axes: numbers of trailing axes that a dense layer contracts, and makes.
    """
    tap = self.taps.get(name)
    if tap is None:
      return call(x)
    before, after = axes
    flat = x if before == 1 else x.reshape(*x.shape[: x.ndim - before], -1)
    inputs = flat.shape[channel_axis] * (1 if window is None else math.prod(window.size))
    inputs += with_bias
    of_one = (inputs,) if tap.is_diagonal("inputs") else (inputs, inputs)
    if tap.plan.look is not None and tap.arrays["inputs"].shape != of_one:
      self.problems[name] = _SHAPES.format(tap.arrays["inputs"].shape, of_one)
      return call(x)
    seen = self.observer.inputs(
      flat, tap, with_bias=with_bias, window=window, channel_axis=channel_axis
    )
    y = call(seen.reshape(x.shape))
    flat = y if after == 1 else y.reshape(*y.shape[: y.ndim - after], -1)
    return self.observer.outputs(flat, tap, channel_axis=channel_axis).reshape(y.shape)

  def normalization(
    self,
    name: str,
    call: Call,
    x: jax.Array,
    scale: jax.Array | None,
    offset: jax.Array | None,
  ) -> jax.Array:
    """A normalisation; `call` runs it with scale 1 and offset 0."""
    tap = self.taps[name]
    for key, own in (("scale", scale), ("offset", offset)):
      if tap.plan.look is not None and own is not None and tap.arrays[key].shape != own.shape:
        self.problems[name] = _SHAPES.format(tap.arrays[key].shape, own.shape)
        tap = Tap({})
        break
    y = self.observer.scale_and_offset(call(x), scale, offset, tap)
    return y.astype(x.dtype) if y.dtype != x.dtype else y

  def table(self, name: str, call: Call, ids: jax.Array) -> jax.Array:
    """Rows of a table."""
    y = call(ids)
    return y if name not in self.taps else self.observer.looked_up(ids, y, self.taps[name])

  def refuse(self, name: str, reason: str) -> None:
    """Notes why a layer has no tap."""
    self.problems[name] = reason
