"""What taps make of what they see: second moments of inputs, of gradients, of parameters."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from tatnet.optim.dummies import Plan, Seen
from tatnet.optim.meshes import without_explicit_axes
from tatnet.optim.patches import Window, patch_moment, patch_sum, strided, wide
from tatnet.optim.rows import Rows

Sharing = Literal["expand", "reduce"]


@dataclasses.dataclass(frozen=True)
class Counting:
  """How the statistics of a network count; `tatnet.optim.Observer` says more.

  Attributes:
    batch: number of examples.
    sharing: what becomes of several uses of a weight on an example.
    dtype: of the statistics.
  """

  batch: int
  sharing: Sharing
  dtype: jnp.dtype


@dataclasses.dataclass(frozen=True)
class Statistic:
  """A statistic of what a tap sees.

  Attributes:
    counting: of the network.
    plan: of the layer.
    names: of the dummies whose cotangents it gives.
    channel_axis: which axis has the features.
    is_diagonal: whether only the diagonal of a moment is wanted.
  """

  counting: Counting
  plan: Plan
  names: tuple[str, ...]
  channel_axis: int = -1
  is_diagonal: bool = False

  def of_all_rows(self, *seen: jax.Array) -> dict[str, jax.Array]:
    """The statistic by dummy, in the network's precision, of rows that a vmap may hide."""

    def statistic(*seen):
      if self.plan.is_vmapped and seen[-1].ndim < self._seen()[0].ndim:
        # What a vmap around this replaces.
        return {own.name: jnp.zeros(own.dummy, self.counting.dtype) for own in self._seen()}
      found = without_explicit_axes(self, *seen)
      return jax.tree.map(lambda a: a.astype(self.counting.dtype), found)

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
    return (rows or self._leading(x)).by_example(x, self.counting.batch)

  def _leading(self, x: jax.Array) -> Rows:
    """Rows of a leading axis; those of a flattened batch belong to the examples in order."""
    batch, rows = self.counting.batch, x.shape[0] if x.ndim > 1 else 1
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
      x = strided(x, self.window)
      x = x.reshape(*lead, *x.shape[1:])
    x = self._by_example(x, self.plan.inputs)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    if self.counting.sharing == "reduce":
      return self._reduced(x.sum(axis=1, dtype=wide(x)), x.shape[1])
    x = x.reshape(-1, x.shape[-1])
    return self._bordered(self._moment(x), x.sum(0, dtype=wide(x)), x.shape[0])

  def _of_patches(self, x: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    locations = math.prod(self.window.outputs(x.shape[1:-1]))
    total = patch_sum(x.astype(wide(x)), self.window)
    if self.counting.sharing == "expand":
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
    return moment / self.counting.batch


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
    if self.counting.sharing == "reduce":
      g = g.sum(axis=1, dtype=wide(g))
      return {"outputs": g if uses else self._moment(g) / self.counting.batch, **uses}
    g = g.reshape(-1, g.shape[-1])
    count = self.counting.batch * (1 if uses else locations)
    return {"outputs": self._moment(g) / count, **uses}


@dataclasses.dataclass(frozen=True)
class TableMoment(Statistic):
  """Frequencies of the rows of a table, and the gradients' moment at every location."""

  rows: int = 0

  def __call__(self, ids: jax.Array, g: jax.Array) -> dict[str, jax.Array]:
    counting = dataclasses.replace(self.counting, sharing="expand")
    outputs = OutputMoment(counting, self.plan, self.names, is_diagonal=self.is_diagonal)
    counts = jnp.zeros(self.rows, counting.dtype).at[ids.reshape(-1)].add(1.0) / counting.batch
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
    result = own if self.plan.is_reused else jnp.square(own).sum(0) / self.counting.batch
    return dict.fromkeys(self.names, result)


def _squares(a: jax.Array) -> jax.Array:
  return jnp.square(a.astype(wide(a))).sum(0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum("bi,bj->ij", a, b, preferred_element_type=wide(a))
