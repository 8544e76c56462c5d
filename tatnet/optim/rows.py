"""Where the examples of a batch stand in the arrays of a program.

A layer may see them as its leading axis, flattened with locations, behind an axis of
time, or as two views one after the other. Statistics of single examples need to know
which; it is read from the program, equation by equation.
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Rows:
  """Example b has the entries ``(o * batch + b) * inner + i`` of an axis, for all o and i.

  Attributes:
    axis: of the array.
    outer: how often the whole batch is repeated along the axis.
    inner: how many entries of an example stand together.
    is_certain: whether it comes from the inputs, and not from a shape alone.
  """

  axis: int = 0
  outer: int = 1
  inner: int = 1
  is_certain: bool = dataclasses.field(default=True, compare=False)

  def by_example(self, x: jax.Array, batch: int) -> jax.Array:
    """``[batch, locations, ...]``, with the axes behind the examples' own as they are."""
    rest = x.shape[self.axis + 1 :]
    if self.axis == 0 and self.outer == 1:
      return x.reshape(batch, self.inner, *rest)
    x = x.reshape(-1, self.outer, batch, self.inner, *rest)
    x = x.transpose(2, 0, 1, 3, *range(4, x.ndim))
    return x.reshape(batch, -1, *rest)


class Lost(enum.Enum):
  """What can be known of rows that are not `Rows`."""

  NONE = "does not depend on the inputs"
  MIXED = "has examples in an order that cannot be followed"
  UNREAD = "comes from an operation whose rows are not known"


Where = Rows | Lost


@dataclasses.dataclass(frozen=True)
class Operation:
  """One equation of a program.

  Attributes:
    name: of the primitive.
    params: of the primitive.
    shapes: of the operands.
    results: shapes of the results.
    batch: number of examples.
  """

  name: str
  params: Mapping[str, Any]
  shapes: Sequence[tuple[int, ...]]
  results: Sequence[tuple[int, ...]]
  batch: int


def joined(*found: Where) -> Where:
  """Rows of a result from those of operands of its shape."""
  if Lost.MIXED in found:
    return Lost.MIXED
  if Lost.UNREAD in found:
    return Lost.UNREAD
  rows = [where for where in found if isinstance(where, Rows)]
  rows = [where for where in rows if where.is_certain] or rows
  if not rows:
    return Lost.NONE
  return rows[0] if all(where == rows[0] for where in rows) else Lost.MIXED


def rows_after(operation: Operation, found: Sequence[Where]) -> list[Where]:
  """Where the examples stand in the results of an equation."""
  rule = _RULES.get(operation.name)
  if rule is None:
    where = _elementwise(operation, found)
  elif not any(isinstance(where, Rows) for where in found) and rule not in _MAKERS:
    where = joined(*found)
  else:
    where = rule(operation, found)
  return [where for _ in operation.results]


def _elementwise(operation: Operation, found: Sequence[Where]) -> Where:
  """An operation on entries, or an unknown one: the examples stay where no size changes."""
  where = joined(*found)
  if isinstance(where, Rows):
    shape = operation.shapes[found.index(where)]
    for result in operation.results:
      if len(result) != len(shape) or result[where.axis] != shape[where.axis]:
        return Lost.UNREAD
  return where


def _reshape(operation: Operation, found: Sequence[Where]) -> Where:
  where, shape, new = found[0], operation.shapes[0], operation.results[0]
  before = math.prod(shape[: where.axis]) * where.outer
  after = where.inner * math.prod(shape[where.axis + 1 :])
  lead = 1
  for axis, size in enumerate(new):
    rest = math.prod(new[axis + 1 :])
    if before % lead == 0 and after % rest == 0 and lead * size * rest and size > 1:
      outer, inner = before // lead, after // rest
      if outer * operation.batch * inner == size:
        return Rows(axis, outer, inner, where.is_certain)
    lead *= size
  if operation.batch == 1:
    return Rows(0, before, new[0] // before if new and new[0] % before == 0 else 1)
  return Lost.MIXED


def _transpose(operation: Operation, found: Sequence[Where]) -> Where:
  axis = operation.params["permutation"].index(found[0].axis)
  return dataclasses.replace(found[0], axis=axis)


def _broadcast(operation: Operation, found: Sequence[Where]) -> Where:
  kept, new = operation.params["broadcast_dimensions"], operation.results[0]
  if isinstance(found[0], Rows):
    axis = kept[found[0].axis]
    if new[axis] == operation.shapes[0][found[0].axis]:
      return dataclasses.replace(found[0], axis=axis)
    return Lost.MIXED
  return _made(new, operation.batch, set(kept)) if found[0] is Lost.NONE else found[0]


def _made(shape: tuple[int, ...], batch: int, but: set[int] = frozenset()) -> Where:
  """What is made for a batch, and does not depend on it: at its first axis of that size."""
  axes = [axis for axis, size in enumerate(shape) if size == batch and axis not in but]
  return Rows(axes[0], is_certain=False) if axes else Lost.NONE


def _random(operation: Operation, found: Sequence[Where]) -> Where:
  del found
  return _made(operation.results[0][:1], operation.batch)


def _reduced(operation: Operation, found: Sequence[Where]) -> Where:
  axes = operation.params["axes"]
  return _without(found[0], axes)


def _without(where: Where, axes: Sequence[int]) -> Where:
  if not isinstance(where, Rows):
    return where
  if where.axis in axes:
    return Lost.NONE  # one number for all examples
  return dataclasses.replace(where, axis=where.axis - sum(a < where.axis for a in axes))


def _unstack(operation: Operation, found: Sequence[Where]) -> Where:
  axis = operation.params["axis"]
  return Lost.MIXED if found[0].axis == axis else _without(found[0], [axis])


def _stack(operation: Operation, found: Sequence[Where]) -> Where:
  where, axis = joined(*found), operation.params["axis"]
  if not isinstance(where, Rows):
    return where
  return dataclasses.replace(where, axis=where.axis + (where.axis >= axis))


def _squeeze(operation: Operation, found: Sequence[Where]) -> Where:
  return _without(found[0], operation.params["dimensions"])


def _concatenate(operation: Operation, found: Sequence[Where]) -> Where:
  axis = operation.params["dimension"]
  where = joined(*(dataclasses.replace(w, outer=1) if isinstance(w, Rows) else w for w in found))
  if not isinstance(where, Rows) or where.axis != axis:
    return joined(*found)
  # A part of another kind, such as a class token, would shift the rows of the others.
  if not all(isinstance(w, Rows) and w.axis == axis for w in found):
    return Lost.MIXED
  return dataclasses.replace(where, outer=sum(w.outer for w in found))


def _slice(operation: Operation, found: Sequence[Where]) -> Where:
  axis = found[0].axis
  strides = operation.params["strides"]
  start, stop = operation.params["start_indices"][axis], operation.params["limit_indices"][axis]
  return _part(operation, found[0], start, stop, 1 if strides is None else strides[axis])


def _part(operation: Operation, where: Rows, start: int, stop: int, stride: int = 1) -> Where:
  """Entries of the examples' axis from start to stop."""
  size, whole = operation.shapes[0][where.axis], operation.batch * where.inner
  if (start, stop, stride) == (0, size, 1):
    return where
  if stride != 1 or start % whole or (stop - start) % whole or start == stop:
    return Lost.MIXED
  return dataclasses.replace(where, outer=(stop - start) // whole)


def _dynamic_slice(operation: Operation, found: Sequence[Where]) -> Where:
  axis = found[0].axis if isinstance(found[0], Rows) else 0
  return joined(*found) if operation.results[0][axis] == operation.shapes[0][axis] else Lost.UNREAD


def _same_axis(operation: Operation, found: Sequence[Where]) -> Where:
  """Windows and paddings that leave the examples' axis alone."""
  axis = found[0].axis if isinstance(found[0], Rows) else 0
  same = operation.results[0][axis] == operation.shapes[0][axis]
  return found[0] if same else Lost.MIXED


def _not_along(key: str) -> Callable[[Operation, Sequence[Where]], Where]:
  def rule(operation, found):
    axes = operation.params[key]
    axes = axes if isinstance(axes, Sequence) else (axes,)
    where = joined(*found)
    return Lost.MIXED if isinstance(where, Rows) and where.axis in axes else where

  return rule


def _product(operation: Operation, found: Sequence[Where]) -> Where:
  contracted, shared = operation.params["dimension_numbers"]
  first_free = len(shared[0])
  results = []
  for side, where in enumerate(found):
    axes = range(len(operation.shapes[side]))
    free = [a for a in axes if a not in contracted[side] and a not in shared[side]]
    if not isinstance(where, Rows):
      results.append(where)
    elif where.axis in contracted[side]:
      results.append(Lost.NONE)
    elif where.axis in shared[side]:
      results.append(dataclasses.replace(where, axis=list(shared[side]).index(where.axis)))
    else:
      results.append(dataclasses.replace(where, axis=first_free + free.index(where.axis)))
    first_free += len(free)
  return joined(*results)


def _convolution(operation: Operation, found: Sequence[Where]) -> Where:
  numbers = operation.params["dimension_numbers"]
  where = found[0]
  if isinstance(found[1], Rows) or not isinstance(where, Rows):
    return Lost.MIXED
  if where.axis != numbers.lhs_spec[0]:
    return Lost.MIXED
  return dataclasses.replace(where, axis=numbers.out_spec[0])


def _gather(operation: Operation, found: Sequence[Where]) -> Where:
  numbers = operation.params["dimension_numbers"]
  operand, ids = found
  result = range(len(operation.results[0]))
  by_ids = [axis for axis in result if axis not in numbers.offset_dims]
  places = []
  if isinstance(ids, Rows):
    places.append(dataclasses.replace(ids, axis=by_ids[ids.axis]))
  if isinstance(operand, Rows):
    batching = list(numbers.operand_batching_dims)
    gone = {*batching, *numbers.collapsed_slice_dims}
    if operand.axis in batching:
      axis = numbers.start_indices_batching_dims[batching.index(operand.axis)]
      places.append(dataclasses.replace(operand, axis=by_ids[axis]))
    elif operand.axis in gone or (
      operation.params["slice_sizes"][operand.axis] != operation.shapes[0][operand.axis]
    ):
      return Lost.MIXED
    else:
      kept = [axis for axis in range(len(operation.shapes[0])) if axis not in gone]
      axis = numbers.offset_dims[kept.index(operand.axis)]
      places.append(dataclasses.replace(operand, axis=axis))
  return joined(*places, *(where for where in found if not isinstance(where, Rows)))


def split_rows(operation: Operation, where: Where) -> list[Where]:
  """Where the examples stand in the parts of a split array."""
  if not isinstance(where, Rows) or where.axis != operation.params["axis"]:
    return [where for _ in operation.results]
  parts, start = [], 0
  for size in operation.params["sizes"]:
    parts.append(_part(operation, where, start, start + size))
    start += size
  return parts


_REDUCTIONS = ("sum", "max", "min", "prod", "and", "or", "xor")
_WINDOWS = ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min")
_RULES: dict[str, Callable[[Operation, Sequence[Where]], Where]] = {
  "reshape": _reshape,
  "transpose": _transpose,
  "broadcast_in_dim": _broadcast,
  "squeeze": _squeeze,
  "stack": _stack,
  "unstack": _unstack,
  "concatenate": _concatenate,
  "slice": _slice,
  "dynamic_slice": _dynamic_slice,
  "pad": _same_axis,
  "rev": _not_along("dimensions"),
  "sort": _not_along("dimension"),
  "dot_general": _product,
  "conv_general_dilated": _convolution,
  "gather": _gather,
  "random_bits": _random,
  **dict.fromkeys((f"reduce_{name}" for name in _REDUCTIONS), _reduced),
  **dict.fromkeys(("argmax", "argmin"), _reduced),
  **dict.fromkeys(_WINDOWS, _same_axis),
}
_MAKERS = (_broadcast, _random)
