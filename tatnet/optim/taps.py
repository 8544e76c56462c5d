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
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from tatnet.optim.blocks import DENSE_UP_TO
from tatnet.optim.meshes import without_explicit_axes
from tatnet.optim.patches import Window, padded, patch_moment, patch_sum, wide
from tatnet.optim.rows import Rows
from tatnet.optim.uses import Look, marked

Sharing = Literal["expand", "reduce"]


class Seen(NamedTuple):
  """What a tap sees.

  Attributes:
    name: of its dummy.
    ndim: number of axes of what it sees, those of a vmap included.
    dummy: shape of the dummy, of one layer of a stack.
  """

  name: str
  ndim: int
  dummy: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the taps of one layer have to know of its uses.

  Attributes:
    inputs: where the examples stand in what the layer sees; None for the leading axis.
    outputs: where they stand in what it returns.
    is_reused: whether it runs several times on an example.
    is_summed: whether its dummies are then rows of examples, summed over the uses.
    diagonal: sides of which only the diagonal is wanted.
    is_vmapped: whether the examples are hidden by a vmap.
    seen: of every dummy.
    name: of the layer, for the first look.
    look: what the first look notes; None afterwards.
  """

  inputs: Rows | None = None
  outputs: Rows | None = None
  is_reused: bool = False
  is_summed: bool = False
  diagonal: tuple[str, ...] = ()
  is_vmapped: bool = False
  seen: tuple[Seen, ...] = ()
  name: str = ""
  look: Look | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tap:
  """Dummy arguments of a layer; empty where K-FAC does not cover it.

  Attributes:
    arrays: whose cotangents are the statistics.
    plan: of the layer.
  """

  arrays: dict[str, jax.Array]
  plan: Plan = dataclasses.field(default=Plan(), metadata={"static": True})

  def side(self, *names: str) -> dict[str, jax.Array]:
    """Some of the dummies; those that the layer's plan does not have are left out."""
    return {name: self.arrays[name] for name in names if name in self.arrays}

  def is_diagonal(self, name: str) -> bool:
    """Whether a side's dummy is that of a diagonal."""
    return name in self.arrays and self.arrays[name].ndim == 1


@dataclasses.dataclass(frozen=True)
class Observer:
  """What the taps of one network have in common.

  Attributes:
    batch: number of examples.
    sharing: what layers do that use their weights several times on an example, at many
      locations, in a recurrence, or in two branches.
      "expand": every use counts as an example (KFC, arXiv 1602.01407).
      "reduce": inputs are averaged and gradients summed over the uses first
      (arXiv 2311.00636).
    dtype: of the statistics.
    dense_up_to: size of the largest side of a layer that has a dense moment; of a larger
      one there is only the diagonal.

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
  dense_up_to: int = DENSE_UP_TO

  def dense(self, x: jax.Array, w, b, tap: Tap | Mapping[str, jax.Array]) -> jax.Array:
    """``x @ w + b`` for x ``[batch, ..., inputs]``; b may be None."""
    tap = _as_tap(tap)
    y = self.inputs(x, tap, with_bias=b is not None) @ w
    return self.outputs(y if b is None else y + b, tap)

  def convolution(
    self,
    x: jax.Array,
    w,
    b,
    tap: Tap | Mapping[str, jax.Array],
    *,
    stride=1,
    padding="SAME",
    dilation=1,
  ) -> jax.Array:
    """A convolution of x ``[batch, *space, inputs]`` with w ``[*window, inputs, outputs]``."""
    tap = _as_tap(tap)
    space = x.ndim - 2
    letters = "DHW"[-space:]
    window = window_of(x.shape[1:-1], w.shape[:-2], stride, padding, dilation)
    y = jax.lax.conv_general_dilated(
      self.inputs(x, tap, with_bias=b is not None, window=window),
      w,
      window.stride,
      window.padding,
      rhs_dilation=window.dilation,
      dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    return self.outputs(y if b is None else y + b, tap)

  def scale_and_offset(
    self, x: jax.Array, scale, offset, tap: Tap | Mapping[str, jax.Array]
  ) -> jax.Array:
    """``scale * x + offset`` for x ``[batch, ...]``; either may be None."""
    tap = _as_tap(tap)
    for name, parameter, function in (("scale", scale, _scaled), ("offset", offset, _shifted)):
      if parameter is None:
        continue
      dummies = tap.side(name)
      if dummies and tap.plan.look is None:
        x = function(ParameterMoment(self, tap.plan, (name,)), x, parameter, dummies[name])
      else:
        x = self._marked(x, dummies, tap.plan)
        x = x * parameter if name == "scale" else x + parameter
    return x

  def embedding(self, ids: jax.Array, embeddings, tap: Tap | Mapping[str, jax.Array]) -> jax.Array:
    """Rows of a table ``[vocabulary, dim]`` for ids ``[batch, ...]``."""
    return self.looked_up(ids, embeddings[ids], _as_tap(tap))

  def inputs(
    self,
    x: jax.Array,
    tap: Tap,
    *,
    with_bias: bool,
    window: Window | None = None,
    channel_axis: int = -1,
  ) -> jax.Array:
    """x itself, observed as the inputs of a layer."""
    moment = InputMoment(
      self, tap.plan, ("inputs",), channel_axis, tap.is_diagonal("inputs"), with_bias, window
    )
    return self._observed(_observe_inputs, moment, x, tap.side("inputs"))

  def outputs(self, y: jax.Array, tap: Tap, *, channel_axis: int = -1) -> jax.Array:
    """y itself, observed as the outputs of a layer."""
    names = ("outputs", "uses")
    moment = OutputMoment(self, tap.plan, names, channel_axis, tap.is_diagonal("outputs"))
    return self._observed(_observe_outputs, moment, y, tap.side("outputs", "uses"))

  def looked_up(self, ids: jax.Array, y: jax.Array, tap: Tap) -> jax.Array:
    """y itself, the rows of a table for the ids."""
    dummies = tap.side("inputs", "outputs", "uses")
    if not dummies or tap.plan.look is not None:
      return self._marked(y, dummies, tap.plan)
    moment = TableMoment(
      self,
      tap.plan,
      tuple(dummies),
      is_diagonal=tap.is_diagonal("outputs"),
      rows=dummies["inputs"].shape[0],
    )
    return _observe_embedding(moment, ids, y, dummies)

  def _observed(self, function: Callable, statistic, x: jax.Array, dummies) -> jax.Array:
    if not dummies or statistic.plan.look is not None:
      return self._marked(x, dummies, statistic.plan)
    return function(statistic, x, dummies)

  def _marked(self, x: jax.Array, dummies, plan: Plan) -> jax.Array:
    """x itself; in the first look the program shows which dummies belong to it."""
    return marked(plan.look, plan.name, x, dummies) if dummies else x


def _as_tap(tap: Tap | Mapping[str, jax.Array]) -> Tap:
  if isinstance(tap, Tap):
    return tap
  return Tap({name: array for name, array in tap.items() if array is not None})


@dataclasses.dataclass(frozen=True)
class Statistic:
  """A statistic of what a tap sees.

  Attributes:
    observer: of the network.
    plan: of the layer.
    names: of the dummies whose cotangents it gives.
    channel_axis: which axis has the features.
    is_diagonal: whether only the diagonal of a moment is wanted.
  """

  observer: Observer
  plan: Plan
  names: tuple[str, ...]
  channel_axis: int = -1
  is_diagonal: bool = False

  def of_all_rows(self, *seen: jax.Array) -> dict[str, jax.Array]:
    """The statistic by dummy, in the observer's precision, of rows that a vmap may hide."""

    def statistic(*seen):
      if self.plan.is_vmapped and seen[-1].ndim < self._seen()[0].ndim:
        # What a vmap around this replaces.
        return {own.name: jnp.zeros(own.dummy, self.observer.dtype) for own in self._seen()}
      found = without_explicit_axes(self, *seen)
      return jax.tree.map(lambda a: a.astype(self.observer.dtype), found)

    if not self.plan.is_vmapped:
      return statistic(*seen)
    statistic = jax.custom_batching.custom_vmap(statistic)

    @statistic.def_vmap
    def _whole(axis_size, in_batched, *seen):
      del axis_size, in_batched
      result = statistic(*seen)
      return result, jax.tree.map(lambda _: False, result)

    return statistic(*seen)

  def _moment(self, rows: jax.Array) -> jax.Array:
    """Sum of the outer products of rows ``[n, d]``, or its diagonal."""
    return _squares(rows) if self.is_diagonal else _product(rows, rows)

  def _seen(self) -> list[Seen]:
    return [own for own in self.plan.seen if own.name in self.names]

  def _by_example(self, x: jax.Array, rows: Rows | None) -> jax.Array:
    """``[batch, locations, ...]``."""
    return (rows or self._leading(x)).by_example(x, self.observer.batch)

  def _leading(self, x: jax.Array) -> Rows:
    """Rows of a leading axis; those of a flattened batch belong to the examples in order."""
    batch, rows = self.observer.batch, x.shape[0] if x.ndim > 1 else 1
    if rows % batch:
      raise ValueError(
        f"A layer of the network sees {rows} rows (shape {x.shape}) for a batch of {batch} examples;"
        " expected a multiple. The batch must be the leading axis of the inputs and of every layer."
      )
    return Rows(inner=rows // batch)


@dataclasses.dataclass(frozen=True)
class InputMoment(Statistic):
  """Second moment of a layer's inputs, with a last coordinate of 1 for the bias.

  ``[d, d]``, or its diagonal, from inputs ``[batch, ..., inputs]``. Of a layer that runs several times,
  with "reduce": their sum over its locations, ``[batch, d]``.
  """

  with_bias: bool = False
  window: Window | None = None

  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    return {"inputs": self._of(x)}

  def _of(self, x: jax.Array) -> jax.Array:
    x = jnp.moveaxis(x, self.channel_axis, -1)
    lead = x.shape[:-1] if self.window is None else x.shape[: -1 - len(self.window.size)]
    if self.window is not None:
      x = x.reshape(-1, *x.shape[len(lead) :])
      if any(size != 1 for size in self.window.size):
        return self._of_patches(x, lead)
      x = _strided(x, self.window)
      x = x.reshape(*lead, *x.shape[1:])
    x = self._by_example(x, self.plan.inputs)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    if self.observer.sharing == "reduce":
      return self._reduced(x.sum(axis=1, dtype=wide(x)), x.shape[1])
    x = x.reshape(-1, x.shape[-1])
    return self._bordered(self._moment(x), x.sum(0, dtype=wide(x)), x.shape[0])

  def _of_patches(self, x: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    locations = math.prod(self.window.outputs(x.shape[1:-1]))
    total = patch_sum(x.astype(wide(x)), self.window)
    if self.observer.sharing == "expand":
      if self.is_diagonal:
        moment = patch_sum(jnp.square(x.astype(wide(x))), self.window).sum(0)
      else:
        moment = patch_moment(x, self.window)
      return self._bordered(moment, total.sum(0), x.shape[0] * locations)
    total = self._by_example(total.reshape(*lead, -1), self.plan.inputs)
    total = total.reshape(total.shape[0], -1, total.shape[-1])
    return self._reduced(total.sum(axis=1), locations * total.shape[1])

  def _reduced(self, total: jax.Array, locations: int) -> jax.Array:
    if self.plan.is_reused:
      if self.with_bias:
        total = jnp.pad(total, [(0, 0), (0, 1)], constant_values=locations)
      return total
    mean = total / locations
    return self._bordered(self._moment(mean), mean.sum(0), mean.shape[0])

  def _bordered(self, moment: jax.Array, total: jax.Array, count: int) -> jax.Array:
    if self.with_bias and self.is_diagonal:
      moment = jnp.append(moment, jnp.asarray(count, moment.dtype))
    elif self.with_bias:
      total = total.astype(moment.dtype)[:, None]
      corner = jnp.full([1, 1], count, moment.dtype)
      moment = jnp.block([[moment, total], [total.T, corner]])
    return moment / self.observer.batch


@dataclasses.dataclass(frozen=True)
class OutputMoment(Statistic):
  """Second moment of the gradients with respect to a layer's outputs, "outputs".

  ``[outputs, outputs]``, or its diagonal, from gradients ``[batch, ..., outputs]``. Of a layer that runs
  several times: their sum over locations, ``[batch, outputs]``, with "reduce", or the
  moment's sum; and the number of locations, "uses".
  """

  def __call__(self, g: jax.Array) -> dict[str, jax.Array]:
    g = jnp.moveaxis(g, self.channel_axis, -1)
    g = self._by_example(g, self.plan.outputs)
    g = g.reshape(g.shape[0], -1, g.shape[-1])
    locations = g.shape[1]
    uses = {"uses": jnp.full((), locations)} if self.plan.is_reused else {}
    if self.observer.sharing == "reduce":
      g = g.sum(axis=1, dtype=wide(g))
      return {"outputs": g if uses else self._moment(g) / self.observer.batch, **uses}
    g = g.reshape(-1, g.shape[-1])
    count = self.observer.batch * (1 if uses else locations)
    return {"outputs": self._moment(g) / count, **uses}


@dataclasses.dataclass(frozen=True)
class TableMoment(Statistic):
  """Frequencies of the rows of a table, and the gradients' moment at every location."""

  rows: int = 0

  def __call__(self, ids: jax.Array, g: jax.Array) -> dict[str, jax.Array]:
    observer = dataclasses.replace(self.observer, sharing="expand")
    outputs = OutputMoment(observer, self.plan, self.names, is_diagonal=self.is_diagonal)
    counts = jnp.zeros(self.rows, observer.dtype).at[ids.reshape(-1)].add(1.0) / observer.batch
    return {"inputs": counts, **outputs(g)}


@dataclasses.dataclass(frozen=True)
class ParameterMoment(Statistic):
  """Mean square of the examples' own gradients of a scale or an offset.

  Of a normalisation that runs several times: the gradients, ``[batch, *shape]``.
  """

  def __call__(self, parameter: jax.Array, g: jax.Array) -> dict[str, jax.Array]:
    g = self._by_example(g, self.plan.outputs)
    shape = (1,) * (g.ndim - parameter.ndim) + parameter.shape
    axes = tuple(axis for axis in range(1, g.ndim) if shape[axis] == 1)
    own = g.sum(axes, dtype=wide(g)).reshape(-1, *parameter.shape)
    result = own if self.plan.is_reused else jnp.square(own).sum(0) / self.observer.batch
    return dict.fromkeys(self.names, result)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observe_inputs(statistic, x, tap):
  return x


_observe_inputs.defvjp(
  lambda statistic, x, tap: (x, x),
  lambda statistic, x, g: (g, statistic.of_all_rows(x)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observe_outputs(statistic, y, tap):
  return y


_observe_outputs.defvjp(
  lambda statistic, y, tap: (y, None),
  lambda statistic, kept, g: (g, statistic.of_all_rows(g)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scaled(statistic, x, scale, tap):
  return scale * x


def _scaled_backward(statistic, kept, g):
  x, scale = kept
  own = statistic.of_all_rows(scale, g * x)
  return scale * g, _summed_like(g * x, scale), own[statistic.names[0]]


_scaled.defvjp(lambda statistic, x, scale, tap: (scale * x, (x, scale)), _scaled_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _shifted(statistic, x, offset, tap):
  return x + offset


def _shifted_backward(statistic, offset, g):
  own = statistic.of_all_rows(offset, g)
  return g, _summed_like(g, offset), own[statistic.names[0]]


_shifted.defvjp(lambda statistic, x, offset, tap: (x + offset, offset), _shifted_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observe_embedding(statistic, ids, y, tap):
  return y


_observe_embedding.defvjp(
  lambda statistic, ids, y, tap: (y, ids),
  lambda statistic, ids, g: (None, g, statistic.of_all_rows(ids, g)),
)


def _summed_like(g: jax.Array, parameter: jax.Array) -> jax.Array:
  """The gradient of a parameter that was broadcast."""
  shape = (1,) * (g.ndim - parameter.ndim) + parameter.shape
  axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
  return g.sum(axes, dtype=wide(g)).reshape(parameter.shape).astype(parameter.dtype)


def window_of(space_shape, size, stride, padding, dilation) -> Window:
  """The geometry of a convolution of inputs ``[*space]``."""
  space = len(size)

  def each(value) -> tuple[int, ...]:
    return (value,) * space if isinstance(value, int) else tuple(value)

  stride, dilation = each(stride), each(dilation)
  if isinstance(padding, str):
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    padding = jax.lax.padtype_to_pads(space_shape, reach, stride, padding)
  return Window(tuple(size), stride, dilation, tuple((int(a), int(b)) for a, b in padding))


def _strided(x: jax.Array, window: Window) -> jax.Array:
  """What a window of one location sees."""
  steps = (slice(None, None, stride) for stride in window.stride)
  return padded(x, window)[(slice(None), *steps)]


def _squares(a: jax.Array) -> jax.Array:
  return jnp.square(a.astype(wide(a))).sum(0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum("bi,bj->ij", a, b, preferred_element_type=wide(a))
