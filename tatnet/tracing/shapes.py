"""Rules for primitives that only rearrange entries."""

import dataclasses
import functools
import math

import jax.numpy as jnp

from tatnet.tracing import axes as axis_labels
from tatnet.tracing.program import (
  Equation,
  Reader,
  is_signal,
  report_later,
  unreadable,
  without_signal,
)
from tatnet.tracing.signals import linear, pooled
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value, Weights
from tatnet.tracing.weights import joined


def unchanged(reader: Reader, seen: Equation) -> list[Value]:
  """Casts, copies, shardings: the value is the same."""
  del reader
  return list(seen.inputs[: len(seen.out_shapes)])


def converted(reader: Reader, seen: Equation) -> list[Value]:
  """A cast; integers that become floats enter the network, as images of uint8 do."""
  (value,) = seen.inputs
  integers = isinstance(value, Data) and value.kind == "input"
  if integers and value.name and jnp.issubdtype(seen.parameters["new_dtype"], jnp.floating):
    axes = axis_labels.of_input(len(seen.out_shapes[0]), 0)
    return [Signal(reader.network.input(value.name), 1.0, axes)]
  return [value]


def rearranged(reader: Reader, seen: Equation) -> list[Value]:
  """One array in another arrangement: the first operand decides."""
  value = seen.inputs[0]
  if isinstance(value, Unreadable):
    return unreadable(seen)
  if isinstance(value, Known):
    return [value for _ in seen.out_shapes]
  if isinstance(value, Data) and value.array is not None:
    return [dataclasses.replace(value, array=None) for _ in seen.out_shapes]
  if isinstance(value, Weights):
    return [_part(seen, value, index) for index in range(len(seen.out_shapes))]
  if not isinstance(value, (Signal, Statistic)):
    return [value if isinstance(value, Data) else without_signal(seen)[0] for _ in seen.out_shapes]
  old = seen.in_shapes[0]
  results = []
  for index, new in enumerate(seen.out_shapes):
    axes = _axes_after(seen, value.axes, old, new)
    if isinstance(value, Statistic):
      inner = value.pooled and functools.partial(_moved_later, value, axes, seen, old, new, index)
      results.append(dataclasses.replace(value, axes=axes, pooled=inner))
    elif (name := _features(seen, value, index)) and value.is_linear:
      node = reader.network.part(value.node, name, seen.place)
      results.append(dataclasses.replace(value, node=node, axes=axes))
    else:
      results.append(_moved(value, axes, seen, old, new, index))
  return results


def _features(seen: Equation, signal: Signal, index: int) -> str:
  """Which features of a signal that ends with weights are taken; empty if it is none of that."""
  if signal.node.kind != "affine" or signal.layout or not signal.node.leaves:
    return ""
  parameters = seen.parameters
  if seen.name == "split" and signal.axes[parameters["axis"]] == "f":
    sizes = parameters["sizes"]
    return f"features {sum(sizes[:index])}:{sum(sizes[: index + 1])}"
  if seen.name == "slice" and not parameters["strides"]:
    ranges = zip(parameters["start_indices"], parameters["limit_indices"], strict=True)
    taken = [
      (label, f"features {start}:{stop}")
      for (start, stop), size, label in zip(ranges, seen.in_shapes[0], signal.axes, strict=True)
      if stop - start < size
    ]
    if len(taken) == 1 and taken[0][0] == "f":
      return taken[0][1]
  return ""


def _part(seen: Equation, weights: Weights, index: int) -> Weights:
  """Different parts of one parameter, such as the layers of a stack, are different weights."""
  parameters = seen.parameters
  if seen.name == "slice":
    part = ",".join(
      f"{start}:{stop}"
      for start, stop in zip(parameters["start_indices"], parameters["limit_indices"], strict=True)
    )
  elif seen.name in ("split", "unstack"):
    part = str(index)
  elif seen.name == "dynamic_slice" and all(isinstance(v, Known) for v in seen.inputs[1:]):
    part = ",".join(f"{v.value:g}" for v in seen.inputs[1:])
  else:
    return weights
  leaves = frozenset(f"{leaf}[{part}]" for leaf in weights.leaves)
  size = min(math.prod(seen.out_shapes[index]), weights.size) if weights.size else 0
  return dataclasses.replace(weights, leaves=leaves, size=size, array=None)


def _axes_after(seen: Equation, axes, old, new):
  parameters = seen.parameters
  if seen.name == "transpose":
    return tuple(axes[i] for i in parameters["permutation"])
  if seen.name == "broadcast_in_dim":
    return axis_labels.broadcast(axes, len(new), parameters["broadcast_dimensions"])
  if seen.name in ("squeeze", "unstack"):
    over = parameters["dimensions"] if seen.name == "squeeze" else (parameters["axis"],)
    return axis_labels.reduced(axes, tuple(over))
  if (math.prod(old) == math.prod(new) and len(old) != len(new)) or seen.name == "reshape":
    return axis_labels.reshaped(axes, old, new)
  return axes


def _moved_later(statistic: Statistic, *where) -> Signal | None:
  signal = statistic.pooled()
  return signal and _moved(signal, *where)


def _moved(signal: Signal, axes, seen: Equation, old, new, index: int) -> Signal:
  """The signal with one more entry in its layout; what undoes the last one removes it."""
  layout = signal.layout
  if math.prod(old) == math.prod(new) and seen.name not in ("transpose", "rev"):
    before = old
    if layout and layout[-1][0] == "reshape":
      before, layout = layout[-1][1], layout[:-1]
    if before != new:
      layout = (*layout, ("reshape", before, new))
  elif seen.name == "transpose":
    permutation = tuple(seen.parameters["permutation"])
    if layout and layout[-1][0] == "transpose":
      permutation = tuple(layout[-1][1][i] for i in permutation)
      layout = layout[:-1]
    if permutation != tuple(range(len(permutation))):
      layout = (*layout, ("transpose", permutation))
  else:
    details = tuple(sorted((k, str(v)) for k, v in seen.parameters.items() if k != "sharding"))
    layout = (*layout, (seen.name, details, index))
  return dataclasses.replace(signal, axes=axes, layout=layout)


def pad(reader: Reader, seen: Equation) -> list[Value]:
  """Zeros around an image change nothing; zero channels dilute q."""
  value = pooled(reader, seen.inputs[0], seen)
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else joined(seen)
  signal = linear(reader, value, seen)
  share = 1.0
  for axis, before, after in zip(signal.axes, seen.in_shapes[0], seen.out_shapes[0], strict=True):
    if axis == "f" and after > before > 0:
      share *= before / after
  sides = tuple((low, high) for low, high, _ in seen.parameters["padding_config"])
  layout = (*signal.layout, ("pad", sides))
  return [dataclasses.replace(signal, scale=signal.scale * math.sqrt(share), layout=layout)]


def concatenate(reader: Reader, seen: Equation) -> list[Value]:
  """Parts side by side: along channels an average of their maps."""
  values = [pooled(reader, value, seen) for value in seen.inputs]
  signals = [value for value in values if isinstance(value, Signal)]
  if not signals:
    return unreadable(seen) if any(map(is_signal, values)) else _concatenated(seen, values)
  if any(isinstance(value, Unreadable) for value in values):
    return unreadable(seen)
  axis = seen.parameters["dimension"]
  first = signals[0]
  if any(signal.expression.is_truth and not signal.node.is_raw for signal in signals):
    node = report_later(
      reader, seen, "conditions side by side",
      "conditions on a signal are put into one array, as jnp.select and jnp.piecewise do",
      "write the function with nested jnp.where, which is read piece by piece.",
    )  # fmt: skip
    return [Unreadable(node)]
  if len(signals) < len(values) and not first.node.is_raw:
    reader.findings.error(
      "concatenation with constants",
      seen.place,
      "a signal is concatenated with parameters or constants",
      "append them to the raw input only, as tatnet.per_location_normalize does.",
    )
  if all(signal.node.is_raw for signal in signals):  # encodings of the input
    layout = (*first.layout, ("concatenate", seen.place))
    return [Signal(first.node, 1.0, first.axes, layout=layout)]
  if all(_same(first, other) for other in signals):
    layout = (*first.layout, ("concatenate", seen.place))
    return [dataclasses.replace(first, layout=layout)]
  settled = [linear(reader, signal, seen) for signal in signals]
  sizes = [s[axis] for v, s in zip(values, seen.in_shapes, strict=True) if isinstance(v, Signal)]
  parts = [(s.node, s.coefficient, size) for s, size in zip(settled, sizes, strict=True)]
  if len({node for node, _, _ in parts}) == 1 and len({c for _, c, _ in parts}) == 1:
    layout = (*settled[0].layout, ("concatenate", seen.place))
    return [dataclasses.replace(settled[0], layout=layout)]
  node, factor = reader.network.concatenation(parts, seen.place)
  return [Signal(node, factor, first.axes)]


def stack(reader: Reader, seen: Equation) -> list[Value]:
  """Parts along a new axis, which is one of locations."""
  axis = seen.parameters["axis"]
  lifted = [
    dataclasses.replace(v, axes=(*v.axes[:axis], "s", *v.axes[axis:]))
    if isinstance(v, (Signal, Statistic))
    else v
    for v in seen.inputs
  ]
  shapes = [(*s[:axis], 1, *s[axis:]) for s in seen.in_shapes]
  parameters = {"dimension": axis}
  return concatenate(
    reader, dataclasses.replace(seen, inputs=lifted, in_shapes=shapes, parameters=parameters)
  )


def _concatenated(seen: Equation, values: list[Value]) -> list[Value]:
  if len({v for v in values if isinstance(v, Known)}) == 1 and all(
    isinstance(v, Known) for v in values
  ):
    return [values[0]]
  return joined(seen)


def _same(a: Signal, b: Signal) -> bool:
  return a.node is b.node and a.scale == b.scale and a.expression == b.expression
