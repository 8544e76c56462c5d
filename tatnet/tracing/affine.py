"""Rules for matrix products and convolutions: random weights applied to a signal."""

import math

from tatnet.tracing import axes as axis_labels
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable, without_signal
from tatnet.tracing.signals import consumed, linear, pooled, without_softmax
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value, Weights


def dot_general(reader: Reader, seen: Equation) -> list[Value]:
  """Matrix products, dense layers, einsum."""
  left, right = (pooled(reader, value, seen) for value in seen.inputs)
  if not (is_signal(left) or is_signal(right)):
    return _lookup(reader, seen, (left, right))
  if is_signal(left) and is_signal(right):
    return _product(reader, seen, left, right)
  (left_over, right_over), (left_batch, right_batch) = seen.parameters["dimension_numbers"]
  signal, weights, side = (left, right, 0) if is_signal(left) else (right, left, 1)
  if not isinstance(signal, Signal):
    return unreadable(seen)
  over, batch = ((left_over, left_batch), (right_over, right_batch))[side]
  contracted = axis_labels.merged({signal.axes[i] for i in over} - {"b"})
  free = [a for i, a in enumerate(signal.axes) if i not in over and i not in batch]
  new = [contracted] * (len(seen.out_shapes[0]) - len(batch) - len(free))
  kept = [signal.axes[i] for i in batch]
  axes = (*kept, *free, *new) if side == 0 else (*kept, *new, *free)
  if not isinstance(weights, Weights) and contracted != "f":
    # Constants that mix locations resize or pool.
    signal = linear(reader, signal, seen)
    layout = (*signal.layout, ("mixed", seen.place))
    return [Signal(signal.node, signal.scale, axes, layout=layout)]
  return [_apply(reader, seen, signal, weights, axes)]


def convolution(reader: Reader, seen: Equation) -> list[Value]:
  """Convolutions of any stride, dilation, grouping and direction."""
  image, kernel = (pooled(reader, value, seen) for value in seen.inputs)
  if not (is_signal(image) or is_signal(kernel)):
    return without_signal(seen)
  if is_signal(kernel):
    return _product(reader, seen, image, kernel)
  if not isinstance(image, Signal):
    return unreadable(seen)
  numbers = seen.parameters["dimension_numbers"]
  axes = ["s"] * len(seen.out_shapes[0])
  axes[numbers.out_spec[0]] = image.axes[numbers.lhs_spec[0]]
  axes[numbers.out_spec[1]] = "f"
  channels = seen.in_shapes[0][numbers.lhs_spec[1]]
  if not isinstance(kernel, Weights) and seen.parameters["feature_group_count"] == channels:
    # A constant window over each channel blurs or resizes.
    signal = linear(reader, image, seen)
    size = math.prod(seen.in_shapes[1]) / seen.in_shapes[1][numbers.rhs_spec[0]]
    scale = signal.scale * (kernel.value * size if isinstance(kernel, Known) else 1.0)
    layout = (*signal.layout, ("mixed", seen.place))
    return [Signal(signal.node, scale, tuple(axes), layout=layout)]
  return [_apply(reader, seen, image, kernel, tuple(axes))]


def gather(reader: Reader, seen: Equation) -> list[Value]:
  """Indexing: a look-up in a table of weights is an embedding; else a rearrangement."""
  table = pooled(reader, seen.inputs[0], seen)
  if isinstance(table, Signal):
    signal = linear(reader, table, seen)
    axes = axis_labels.of_input(len(seen.out_shapes[0]), 0)
    return [
      Signal(signal.node, signal.scale, axes, layout=(*signal.layout, ("gather", seen.place)))
    ]
  if isinstance(table, (Unreadable, Statistic)):
    return unreadable(seen)
  return _lookup(reader, seen, seen.inputs[:2])


def _lookup(reader: Reader, seen: Equation, operands) -> list[Value]:
  """Rows of a table of parameters, chosen by integer inputs, start a signal."""
  table = next((value for value in operands if isinstance(value, Weights)), None)
  indices = next((value for value in operands if isinstance(value, Data)), None)
  if table is None or indices is None or indices.kind != "input":
    return without_signal(seen)
  node = reader.network.affine(reader.network.input, table.leaves, seen.place)
  return [Signal(node, 1.0, axis_labels.of_input(len(seen.out_shapes[0]), 0))]


def _apply(reader: Reader, seen: Equation, signal: Signal, weights: Value, axes) -> Value:
  if signal.softmax:
    signal = without_softmax(reader, signal, seen)
  node, factor = consumed(reader, signal, seen)
  if node.kind == "input":
    factor = 1.0  # the input is taken to have q = 1 after any preprocessing
  leaves = weights.leaves if isinstance(weights, Weights) else frozenset()
  if (isinstance(weights, Known) and weights.value == 0) or getattr(
    weights, "initial", None
  ) == 0.0:
    factor = 0.0
  return Signal(reader.network.affine(node, leaves, seen.place), factor, axes)


def _product(reader: Reader, seen: Equation, left: Value, right: Value) -> list[Value]:
  """Reports a product of signals and reads on with one of them, to find what else is wrong."""
  if not (isinstance(left, Signal) and isinstance(right, Signal)):
    return unreadable(seen)
  if left.softmax or right.softmax:
    scores, left = (left, right) if left.softmax else (right, left)
    without_softmax(reader, scores, seen)
  else:
    reader.findings.error(
      "product of two signals",
      seen.place,
      f"{seen.name} multiplies two signals, as attention scores and bilinear layers do",
      "C maps do not cover it, softmax attention included: leave that part out of the shaped"
      " network.",
    )
  signal = linear(reader, left, seen)
  axes = axis_labels.of_input(len(seen.out_shapes[0]), 0)
  return [Signal(signal.node, signal.scale, axes)]
