"""Rules for matrix products and convolutions: random weights applied to a signal."""

import math

import numpy as np

from tatnet.network.builders import identity
from tatnet.tracing import axes as axis_labels
from tatnet.tracing import mixing
from tatnet.tracing.program import (
  Equation,
  Reader,
  is_signal,
  report_later,
  unreadable,
  warn_of_gain,
  without_signal,
)
from tatnet.tracing.signals import consumed, linear, pooled, starts_at_zero, without_softmax
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value, Weights
from tatnet.tracing.weights import drift, joined, multiplied


def dot_general(reader: Reader, seen: Equation) -> list[Value]:
  """Matrix products, dense layers, einsum."""
  left, right = (pooled(reader, value, seen) for value in seen.inputs)
  if Known(0.0) in (left, right):
    return [Known(0.0)]
  if isinstance(left, Weights) and isinstance(right, Weights):
    return [multiplied(left, right)]
  if not (is_signal(left) or is_signal(right)):
    return _lookup(reader, seen, (left, right))
  if is_signal(left) and is_signal(right):
    if starts_at_zero(left) or starts_at_zero(right):
      return [Known(0.0)]  # logits of queries that start at zero
    return _product(reader, seen, left, right)
  (left_over, right_over), (left_batch, right_batch) = seen.parameters["dimension_numbers"]
  signal, weights, side = (left, right, 0) if is_signal(left) else (right, left, 1)
  if not isinstance(signal, Signal):
    return unreadable(seen)
  over, batch = ((left_over, left_batch), (right_over, right_batch))[side]
  labels = {signal.axes[i] for i in over}
  contracted = axis_labels.merged(labels - {"b"})
  free = [a for i, a in enumerate(signal.axes) if i not in over and i not in batch]
  new = [contracted] * (len(seen.out_shapes[0]) - len(batch) - len(free))
  kept = [signal.axes[i] for i in batch]
  axes = (*kept, *free, *new) if side == 0 else (*kept, *new, *free)
  if isinstance(weights, Data) and weights.kind == "state":  # weights that are never trained
    weights = Weights(frozenset({f"the state at {seen.place}"}))
  if not isinstance(weights, Weights):
    own_over, own_batch = ((right_over, right_batch), (left_over, left_batch))[side]
    matrix = _matrix(weights, seen.in_shapes[1 - side], own_over, own_batch)
    return [mixing.by_constants(reader, seen, signal, matrix, contracted, axes)]
  inputs = math.prod(seen.in_shapes[side][i] for i in over)
  key = (seen.name, str(seen.parameters["dimension_numbers"]), side)
  options = {"key": key, "keeps_mean": "f" not in labels}
  return [_apply(reader, seen, signal, weights, axes, inputs, options)]


def _matrix(value: Value, shape, over, batch) -> np.ndarray | None:
  """A constant operand as a matrix [inputs, outputs]; None if it is not known."""
  if isinstance(value, Known):
    array = np.broadcast_to(value.value, shape)
  elif isinstance(value, Data) and value.array is not None:
    array = value.array if value.array.dtype == np.float64 else value.array.astype(np.float64)
  else:
    return None
  if batch:
    first = array[tuple(slice(0, 1) if i in batch else slice(None) for i in range(array.ndim))]
    if not all(array.strides[i] == 0 for i in batch) and not (array == first).all():
      return None
    array = first  # the same for all examples and heads
  rest = [i for i in range(len(shape)) if i not in over]
  return array.transpose(*over, *rest).reshape(math.prod(shape[i] for i in over), -1)


def convolution(reader: Reader, seen: Equation) -> list[Value]:
  """Convolutions of any stride, dilation, grouping and direction."""
  image, kernel = (pooled(reader, value, seen) for value in seen.inputs)
  if not (is_signal(image) or is_signal(kernel)):
    return without_signal(seen)
  if is_signal(kernel):
    return _product(reader, seen, image, kernel)
  if not isinstance(image, Signal):
    return unreadable(seen)
  numbers, groups = seen.parameters["dimension_numbers"], seen.parameters["feature_group_count"]
  axes = ["s"] * len(seen.out_shapes[0])
  axes[numbers.out_spec[0]] = image.axes[numbers.lhs_spec[0]]
  axes[numbers.out_spec[1]] = "f"
  channels = seen.in_shapes[0][numbers.lhs_spec[1]]
  if not isinstance(kernel, Weights):
    matrix = _window(kernel, seen.in_shapes[1], numbers.rhs_spec) if groups == channels else None
    # A constant window over each channel blurs or resizes.
    return [mixing.by_constants(reader, seen, image, matrix, "s", tuple(axes))]
  _check_geometry(reader, seen, image, kernel)
  inputs = math.prod(seen.in_shapes[1]) // seen.in_shapes[1][numbers.rhs_spec[0]]
  options = {"key": _geometry(seen), "mixes": channels // groups > 1}
  return [_apply(reader, seen, image, kernel, tuple(axes), inputs, options)]


def _window(kernel: Value, shape, spec) -> np.ndarray | None:
  """Kernels of one input channel each as a matrix [taps, channels]."""
  matrix = _matrix(kernel, shape, tuple(spec[2:]), ())
  return None if matrix is None else matrix.reshape(math.prod(shape[i] for i in spec[2:]), -1)


def _geometry(seen: Equation) -> tuple:
  names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
  return (*(str(seen.parameters[name]) for name in names), seen.parameters["feature_group_count"])


def _check_geometry(reader: Reader, seen: Equation, image: Signal, kernel: Weights) -> None:
  """Warns where a kernel, or the one tap of a Delta kernel, reads zeros."""
  parameters = seen.parameters
  numbers = parameters["dimension_numbers"]
  if any(dilation > 1 for dilation in parameters["lhs_dilation"]):
    reader.findings.warn(
      "transposed convolution",
      seen.place,
      "a convolution with a stride in its input reads mostly zeros, by which q falls, differently"
      " from location to location",
      "resize by repeating locations and convolve the result, or let a layer with weights make all"
      " new locations from each old one.",
    )
    return
  before = (
    dict(enumerate(image.layout[-1][1]))
    if image.layout[-1:] and image.layout[-1][0] == "pad"
    else {}
  )
  sizes = [seen.in_shapes[1][i] for i in numbers.rhs_spec[2:]]
  pads = [
    (low + before.get(i, (0, 0))[0], high + before.get(i, (0, 0))[1])
    for (low, high), i in zip(parameters["padding"], numbers.lhs_spec[2:], strict=True)
  ]
  reach = [
    ((n - 1) // 2 * d, (n - 1 - (n - 1) // 2) * d)
    for n, d in zip(sizes, parameters["rhs_dilation"], strict=True)
  ]
  if any(
    low > below or high > above for (low, high), (below, above) in zip(pads, reach, strict=True)
  ):
    reader.findings.warn(
      "zeros at the border",
      seen.place,
      f"the input of a convolution with kernels of {sizes} is padded by {pads}, so that some"
      " locations see nothing but zeros even where only the middle of the kernel is not 0",
      "pad by no more than half the kernel on each side, or repeat the border instead of zeros.",
    )
  elif any(map(any, pads)) and math.prod(sizes) > 1 and not _is_delta(kernel, numbers.rhs_spec):
    reader.findings.warn(
      "kernels that are not Delta",
      seen.place,
      f"kernels of {sizes} have weights outside of their middle, and zeros are padded: locations at"
      " the border have a smaller q, and cosines across locations enter",
      "start with Delta kernels, as tatnet.ScaledUniformOrthogonal makes them.",
    )


def _is_delta(kernel: Weights, spec) -> bool:
  """Whether only the middle tap is not 0; of kernels that are not known it is taken to be so."""
  if kernel.array is None or kernel.array.ndim != len(spec):
    return True
  taps = np.abs(kernel.array).transpose(*spec[2:], spec[0], spec[1]).sum((-2, -1))
  middle = tuple(slice((n - 1) // 2, n // 2 + 1) for n in taps.shape)
  return bool(taps[middle].sum() > (1 - 1e-9) * taps.sum())


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
    return joined(seen) if seen.name == "gather" else without_signal(seen)
  source = reader.network.input(indices.name)
  rows = {"key": ("rows",), "inputs": 1 / max(seen.out_shapes[0][-1:], default=1)}
  node = reader.network.affine(source, table.leaves, seen.place, **rows)
  return [Signal(node, 1.0, axis_labels.of_input(len(seen.out_shapes[0]), 0))]


def _apply(
  reader: Reader, seen: Equation, signal: Signal, weights: Weights, axes, inputs: int, options: dict
) -> Value:
  """Weights over a signal, whose q they leave as it is if their variance is 1 / inputs."""
  if signal.softmax:
    signal = without_softmax(reader, signal, seen)
  node, factor = consumed(reader, signal, seen)
  if node.is_raw:
    if signal.layout and signal.layout[-1][0] == "reduce locations":
      reader.findings.warn(
        "average of the raw input",
        seen.place,
        "the input is averaged or summed over locations before any weights; maps begin behind it,"
        " where q is taken to be 1",
        "scale it so that its mean square is 1 there.",
      )
    # The input is taken to have q = 1 after any preprocessing.
    options, factor = {**options, "input_factor": abs(factor)}, 1.0
  if weights.initial == 0.0:
    factor = 0.0
  is_known = _check_weights(reader, seen, weights)
  if weights.standardised and node.mean != identity():
    reader.findings.error(
      "standardised weights",
      seen.place,
      f"the mean of {min(weights.leaves)} is subtracted, which takes from the signal before it what"
      " C(0) of its activation makes all features share",
      "use the weights as they are, or an activation with C(0) = 0, as DKS makes it.",
    )
  scale = drift(weights, inputs) if is_known else 1.0
  # Weights of variance 1 that are divided by the root of their inputs, before or after.
  if weights.degree == 1 and abs(scale * math.sqrt(inputs) - 1) < 1e-6:
    scale = 1.0
  options = {**options, "key": (*options["key"], signal.layout)}
  has_unit_length = node.kind == "normalised" and abs(abs(factor) * math.sqrt(inputs) - 1) < 1e-6
  if weights.degree == 1 and scale == 1 and not has_unit_length:
    options["inputs"] = inputs
  options["has_guess"] = bool(weights.gains)
  node = reader.network.affine(node, weights.leaves, seen.place, **options)
  return Signal(node, factor * scale, axes, is_unsure=signal.is_unsure)


def _check_weights(reader: Reader, seen: Equation, weights: Weights) -> bool:
  """Warns where what acts on a signal may not be as a parameter starts; whether its size is known."""
  if weights.gains:
    warn_of_gain(reader, seen.place)
  is_known = not weights.is_unknown and weights.form in ("random", "mean")
  if not is_known:
    reader.findings.warn(
      "function of parameters",
      seen.place,
      f"what acts on the signal is a function of {', '.join(sorted(weights.leaves)[:3])}, of which"
      " neither size nor mean are known: maps hold if its entries have mean 0 and variance 1 / inputs",
      "use the parameters as they are, or let what is made of them start with such entries; and look"
      " at the kernel report.",
    )
  return is_known


def _product(reader: Reader, seen: Equation, left: Value, right: Value) -> list[Value]:
  """A product of signals: reported if anything reads it."""
  if not (isinstance(left, Signal) and isinstance(right, Signal)):
    return unreadable(seen)
  if left.softmax or right.softmax:
    node = without_softmax(reader, left if left.softmax else right, seen).node
  else:
    node = report_later(
      reader,
      seen,
      "product of two signals",
      f"{seen.name} multiplies two signals, as attention scores, bilinear layers and an adjacency"
      " among the inputs do",
      "C maps do not cover it: leave that part out of the shaped network. Attention is read where its"
      " queries start at zero: see tatnet.attention. A matrix that is no signal, such as an adjacency, has to be a constant of the"
      " program rather than an input.",
    )
  return [Signal(node, 1.0, axis_labels.of_input(len(seen.out_shapes[0]), 0))]
