"""Taps: identity functions whose backward pass observes a layer.

A tap stands at the input and at the output of a layer. It leaves the signal as it
is; the cotangent of its dummy argument *is* a statistic of the layer: the second
moment of the inputs, or that of the gradients with respect to the outputs. So
Kronecker factors come out of the ordinary backward pass, under `jit`, `scan`,
`remat`, `vmap` and sharding alike.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from tatnet.optim.patches import Window, padded, patch_moment, patch_sum, wide

Sharing = Literal["expand", "reduce"]


@dataclasses.dataclass(frozen=True)
class Observer:
  """What the taps of one network have in common.

  A tap of None observes nothing: the layer is then differentiable forwards too.

  Attributes:
    batch: number of examples.
    sharing: what layers do that use their weights at many locations of an example.
      "expand": every location counts as an example (KFC, arXiv 1602.01407).
      "reduce": inputs are averaged and gradients summed over locations first
      (arXiv 2311.00636).
    dtype: of the statistics.

  Example:
    >>> def apply(params, taps, observer, x):  # for `value_grad_and_factors`
    ...   return observer.dense(x, params["out"]["w"], None, taps["out"])
    >>> evaluate = tatnet.value_grad_and_factors(apply, tatnet.optim.SquaredError())
    >>> params = {"out": {"w": jnp.ones([3, 1])}}
    >>> result = evaluate(params, jnp.ones([4, 3]), jnp.ones([4, 1]), key=jax.random.key(0))
    >>> result.factors.layers["out"]["inputs"].shape
    (3, 3)
  """

  batch: int
  sharing: Sharing
  dtype: jnp.dtype

  def dense(self, x: jax.Array, w, b, tap: dict[str, jax.Array]) -> jax.Array:
    """``x @ w + b`` for x ``[batch, ..., inputs]``; b may be None."""
    moment = InputMoment(self, with_bias=b is not None)
    y = observe(moment, x, tap["inputs"]) @ w
    return observe(OutputMoment(self), y if b is None else y + b, tap["outputs"])

  def convolution(
    self, x: jax.Array, w, b, tap: dict[str, jax.Array], *, stride=1, padding="SAME", dilation=1
  ) -> jax.Array:
    """A convolution of x ``[batch, *space, inputs]`` with w ``[*window, inputs, outputs]``."""
    space = x.ndim - 2
    letters = "DHW"[-space:]
    window = window_of(x.shape, w.shape[:-2], stride, padding, dilation)
    moment = InputMoment(self, with_bias=b is not None, window=window)
    y = jax.lax.conv_general_dilated(
      observe(moment, x, tap["inputs"]),
      w,
      window.stride,
      window.padding,
      rhs_dilation=window.dilation,
      dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    return observe(OutputMoment(self), y if b is None else y + b, tap["outputs"])

  def scale_and_offset(self, x: jax.Array, scale, offset, tap: dict[str, jax.Array]) -> jax.Array:
    """``scale * x + offset`` for x ``[batch, ...]``; either may be None."""
    if scale is not None:
      is_tapped = tap["scale"] is not None
      x = _gradients_of_scale(self, x, scale, tap["scale"]) if is_tapped else scale * x
    if offset is not None:
      is_tapped = tap["offset"] is not None
      x = _gradients_of_offset(self, x, offset, tap["offset"]) if is_tapped else x + offset
    return x

  def embedding(self, ids: jax.Array, embeddings, tap: dict[str, jax.Array]) -> jax.Array:
    """Rows of a table ``[vocabulary, dim]`` for ids ``[batch, ...]``."""
    return observe_embedding(self, ids, embeddings[ids], tap)


@dataclasses.dataclass(frozen=True)
class InputMoment:
  """Second moment of a layer's inputs, with a last coordinate of 1 for the bias."""

  observer: Observer
  with_bias: bool
  window: Window | None = None

  def __call__(self, x: jax.Array) -> jax.Array:
    """``[d, d]`` from inputs ``[batch, ..., inputs]``."""
    batch = self.observer.batch
    if self.window is not None and all(size == 1 for size in self.window.size):
      x = _strided(x, self.window)
    elif self.window is not None:
      return self._of_patches(x)
    x = _by_example(x, batch)
    if self.observer.sharing == "reduce":
      x = x.mean(axis=1, keepdims=True)
    x = x.reshape(-1, x.shape[-1])
    return self._bordered(_product(x, x), x.sum(0, dtype=wide(x)), x.shape[0])

  def _of_patches(self, x: jax.Array) -> jax.Array:
    locations = math.prod(self.window.outputs(x.shape[1:-1]))
    total = patch_sum(x.astype(wide(x)), self.window)
    if self.observer.sharing == "expand":
      moment = patch_moment(x, self.window)
      return self._bordered(moment, total.sum(0), x.shape[0] * locations)
    mean = _by_example(total / locations, self.observer.batch).mean(axis=1)
    return self._bordered(_product(mean, mean), mean.sum(0), mean.shape[0])

  def _bordered(self, moment: jax.Array, total: jax.Array, count: int) -> jax.Array:
    if self.with_bias:
      total = total.astype(moment.dtype)[:, None]
      corner = jnp.full([1, 1], count, moment.dtype)
      moment = jnp.block([[moment, total], [total.T, corner]])
    return moment / self.observer.batch


@dataclasses.dataclass(frozen=True)
class OutputMoment:
  """Second moment of the gradients with respect to a layer's outputs."""

  observer: Observer

  def __call__(self, g: jax.Array) -> jax.Array:
    """``[outputs, outputs]`` from gradients ``[batch, ..., outputs]``."""
    g = _by_example(g, self.observer.batch)
    locations = g.shape[1]
    if self.observer.sharing == "reduce":
      g, locations = g.sum(axis=1, keepdims=True), 1
    g = g.reshape(-1, g.shape[-1])
    return _product(g, g) / (self.observer.batch * locations)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observe_inputs(statistic, x, tap):
  return x


_observe_inputs.defvjp(
  lambda statistic, x, tap: (x, x),
  lambda statistic, x, g: (g, statistic(x).astype(statistic.observer.dtype)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observe_outputs(statistic, y, tap):
  return y


_observe_outputs.defvjp(
  lambda statistic, y, tap: (y, None),
  lambda statistic, kept, g: (g, statistic(g).astype(statistic.observer.dtype)),
)


def observe(
  statistic: InputMoment | OutputMoment, x: jax.Array, tap: jax.Array | None
) -> jax.Array:
  """x itself; the cotangent of the tap is the statistic of x, or of its cotangent."""
  if tap is None:
    return x
  function = _observe_inputs if isinstance(statistic, InputMoment) else _observe_outputs
  return function(statistic, x, tap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients_of_scale(observer, x, scale, tap):
  return scale * x


def _scale_backward(observer, kept, g):
  x, scale = kept
  own = _over_locations(g * x, scale, observer.batch)
  return scale * g, own.sum(0).astype(scale.dtype), _mean_square(own, observer)


_gradients_of_scale.defvjp(lambda observer, x, scale, tap: (scale * x, (x, scale)), _scale_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients_of_offset(observer, x, offset, tap):
  return x + offset


def _offset_backward(observer, offset, g):
  own = _over_locations(g, offset, observer.batch)
  return g, own.sum(0).astype(offset.dtype), _mean_square(own, observer)


_gradients_of_offset.defvjp(lambda observer, x, offset, tap: (x + offset, offset), _offset_backward)


def observe_embedding(
  observer: Observer, ids: jax.Array, y: jax.Array, tap: dict[str, jax.Array]
) -> jax.Array:
  """y itself, the rows of the ids; cotangents are frequencies of rows and the gradients' moment."""
  if tap["inputs"] is None:
    return y
  return _observe_embedding(observer, tap["inputs"].shape[0], ids, y, tap)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _observe_embedding(observer, rows, ids, y, tap):
  return y


def _embedding_backward(observer, rows, ids, g):
  counts = jnp.zeros(rows, observer.dtype).at[ids.reshape(-1)].add(1.0) / observer.batch
  moment = OutputMoment(dataclasses.replace(observer, sharing="expand"))(g)
  return None, g, {"inputs": counts, "outputs": moment.astype(observer.dtype)}


_observe_embedding.defvjp(lambda observer, rows, ids, y, tap: (y, ids), _embedding_backward)


def window_of(shape, size, stride, padding, dilation) -> Window:
  """The geometry of a convolution of inputs ``[batch, *space, channels]``."""
  space = len(size)

  def each(value) -> tuple[int, ...]:
    return (value,) * space if isinstance(value, int) else tuple(value)

  stride, dilation = each(stride), each(dilation)
  if isinstance(padding, str):
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    padding = jax.lax.padtype_to_pads(shape[1:-1], reach, stride, padding)
  return Window(tuple(size), stride, dilation, tuple((int(a), int(b)) for a, b in padding))


def _strided(x: jax.Array, window: Window) -> jax.Array:
  """What a window of one location sees."""
  steps = (slice(None, None, stride) for stride in window.stride)
  return padded(x, window)[(slice(None), *steps)]


def _by_example(x: jax.Array, batch: int) -> jax.Array:
  """``[batch, locations, features]``."""
  return _grouped(x, batch).reshape(batch, -1, x.shape[-1])


def _grouped(x: jax.Array, batch: int) -> jax.Array:
  """``[batch, rows, ...]``; the rows of a flattened batch belong to the examples in order."""
  rows = x.shape[0] if x.ndim > 1 else 1
  if rows % batch:
    raise ValueError(
      f"A layer of the network sees {rows} rows (shape {x.shape}) for a batch of {batch} examples;"
      " expected a multiple. The batch must be the leading axis of the inputs and of every layer."
    )
  return x.reshape(batch, rows // batch, *(x.shape[1:] if x.ndim > 1 else x.shape))


def _over_locations(g: jax.Array, parameter: jax.Array, batch: int) -> jax.Array:
  """Gradients of every example, ``[batch, *parameter.shape]``."""
  g = _grouped(g, batch)
  shape = (1,) * (g.ndim - parameter.ndim) + parameter.shape
  axes = tuple(axis for axis in range(1, g.ndim) if shape[axis] == 1)
  return g.sum(axes, dtype=wide(g)).reshape(batch, *parameter.shape)


def _mean_square(own: jax.Array, observer: Observer) -> jax.Array:
  return (jnp.square(own).sum(0) / observer.batch).astype(observer.dtype)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum("bi,bj->ij", a, b, preferred_element_type=wide(a))
