"""Rules for elementwise primitives: scaling, sums, normalisation, nonlinearities."""

import dataclasses
import math

from tatnet.tracing import axes as axis_labels
from tatnet.tracing import expressions
from tatnet.tracing.constants import arithmetic
from tatnet.tracing.expressions import VARIABLE, Expression
from tatnet.tracing.gains import as_start, initial, is_gain, is_table, is_unknown, report_unknown
from tatnet.tracing.mixing import scaled_rows
from tatnet.tracing.normalisation import batch_normalised, of_statistics, with_statistic
from tatnet.tracing.program import (
  Equation,
  Reader,
  dropped_path,
  is_signal,
  report_later,
  unreadable,
  warn_of_gain,
  without_signal,
)
from tatnet.tracing.raw_inputs import preprocessed, scaled
from tatnet.tracing.signals import as_started, linear, pooled, radius_of, without_softmax
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value


def elementwise(reader: Reader, seen: Equation) -> list[Value]:
  """Any elementwise primitive."""
  if not any(is_signal(value) for value in seen.inputs):
    return [arithmetic(seen)]
  if any(isinstance(value, Unreadable) for value in seen.inputs):
    return unreadable(seen)
  if any(is_table(value, seen) for value in seen.inputs):
    return [_of_signals(reader, seen, [as_start(reader, value, seen) for value in seen.inputs])]
  inputs = [initial(value, seen) for value in seen.inputs]
  unknown = [value for value in seen.inputs if is_unknown(value, seen)]
  for value in unknown:
    report_unknown(reader, value, seen)
  if not unknown and any(is_gain(value, seen) for value in seen.inputs):
    warn_of_gain(reader, seen.place)
    for value in seen.inputs:
      if isinstance(value, (Signal, Statistic)):
        value.node.has_guess = True
  if unknown:
    inputs = [
      dataclasses.replace(value, is_unsure=True) if isinstance(value, Signal) else value
      for value in inputs
    ]
  if seen.name == "select_n" and isinstance(inputs[0], Known):
    return [inputs[1 + int(inputs[0].value)]]
  if seen.name == "select_n" and isinstance(inputs[0], Data):
    return [_select(reader, seen, inputs)]
  if any(isinstance(value, Data) for value in inputs):
    return [_with_data(reader, seen, inputs)]
  statistics = [value for value in inputs if isinstance(value, Statistic)]
  signals = [value for value in inputs if isinstance(value, Signal)]
  if statistics:
    combine = with_statistic if signals else of_statistics
    return [combine(reader, seen, inputs, _of_signals, _of_signals_or_gate)]
  return [_of_signals(reader, seen, inputs)]


def interpolated(reader: Reader, seen: Equation) -> list[Value]:
  """`jnp.interp`, a table of places and values as a function: straight between its places."""
  x, *table = seen.inputs
  arrays = [getattr(value, "array", None) for value in table]
  if not is_signal(x):
    return without_signal(seen)
  if not isinstance(x, Signal):
    return unreadable(seen)
  if len(table) != 2 or any(array is None or array.ndim != 1 for array in arrays):
    node = report_later(
      reader, seen, "interpolation in an unknown table",
      "jnp.interp is applied to a signal, with values that are not known while tracing",
      "give the parameters as arrays, as the model's init makes them, without left, right or period.",
    )  # fmt: skip
    return [Signal(node, 1.0, x.axes)]
  xp, fp = (tuple(array.astype(float).tolist()) for array in arrays)
  call = dataclasses.replace(seen, name="interp", parameters={"xp": xp, "fp": fp})
  return [_pointwise(call, [x], [x])]


def _select(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """select(mask, ...): dropout; other masks are not understood."""
  mask, *cases = inputs
  signals = [value for value in cases if isinstance(value, (Signal, Statistic))]
  if mask.kind == "mask" and len(signals) == 1 and Known(0.0) in cases:
    keep = mask.keep if cases[1] is signals[0] else 1 - mask.keep
    return _dropout(reader, signals[0], dataclasses.replace(mask, keep=keep), seen)
  return _with_data(reader, seen, inputs)


def _dropout(reader: Reader, value: Value, mask: Data, seen: Equation) -> Value:
  """A signal of which entries, or whole examples, are left out at random."""
  signal = pooled(reader, value, seen)
  if not isinstance(signal, Signal):
    return Unreadable()
  signal = linear(reader, signal, seen)
  shape = seen.out_shapes[0]
  # Where the operation broadcasts, the signal may have fewer axes than the result.
  features = axis_labels.features(signal.axes, shape) if len(shape) == len(signal.axes) else 1
  if mask.size and features > 1 and mask.size * features <= math.prod(shape):
    return dropped_path(reader, signal, mask, seen)
  if not 0 < mask.keep < 1:
    return dataclasses.replace(signal, scale=signal.scale * mask.scale * mask.keep)
  node, factor = reader.network.dropped(signal.node, mask.keep, seen.place)
  scale = signal.coefficient * mask.scale * mask.keep * factor
  return dataclasses.replace(signal, node=node, scale=scale * node.corrected)


def _with_data(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """A signal beside constants that are not uniform, random numbers or running statistics."""
  data = next(value for value in inputs if isinstance(value, Data))
  if any(isinstance(value, Statistic) for value in inputs) and data.kind == "state":
    return data  # running statistics being updated
  signals = [v for v in (pooled(reader, v, seen) for v in inputs) if isinstance(v, Signal)]
  if not signals:
    return Unreadable()
  if data.kind == "mask" and seen.name == "mul":
    return _dropout(reader, signals[0], data, seen)
  signal = signals[0]
  if data.kind == "state":
    signal = linear(reader, signal, seen)
    return dataclasses.replace(signal, node=batch_normalised(reader, signal.node, seen), scale=1.0)
  if signal.node.is_raw:  # preprocessing, masks and positions of the input
    return dataclasses.replace(signal, scale=1.0, expression=VARIABLE)
  signal = linear(reader, signal, seen)
  if seen.name == "mul" and len(inputs) == 2 and data.array is not None:
    planned = scaled_rows(reader, seen, signal, data.array)
    if planned is not None:
      return planned
  if seen.name in ("mul", "div", "select_n"):
    what, remedy = "multiplied by", "keep it out of the network, or use a uniform constant"
  else:
    what, remedy = "combined with", "keep it out of the network"
  if data.kind in ("random", "mask"):
    node = report_later(
      reader, seen, "noise", "the signal is combined with random numbers",
      "trace the network without it.",
    )  # fmt: skip
  else:
    node = report_later(
      reader,
      seen,
      "constant array",
      f"the signal is {what} an array of constants that differ",
      f"{remedy}; give masks of what is there as arrays of booleans, of which all entries are taken"
      " to be true.",
    )
  return dataclasses.replace(signal, node=node, scale=1.0)


def _of_signals(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """Constants and signals only."""
  signals = [value for value in inputs if isinstance(value, Signal)]
  if seen.name == "mul" and Known(0.0) in inputs:
    return Known(0.0)
  if any(signal.node.is_raw for signal in signals) and (made := preprocessed(reader, seen, inputs)):
    return made
  softmax = next((signal for signal in signals if signal.softmax), None)
  if softmax is not None:
    return without_softmax(reader, softmax, seen) if len(signals) > 1 else softmax
  is_sum = seen.name in ("add", "sub", "add_any") and len(signals) == 2
  if is_sum and (not _aligned(*signals) or all(_is_linear(s) for s in signals)):
    return _sum(reader, seen, signals)
  if len(signals) == 1 and signals[0].is_linear:
    number = next((value.value for value in inputs if isinstance(value, Known)), None)
    if seen.name == "mul" and number is not None:
      planned = scaled_rows(reader, seen, signals[0], number)
      if planned is not None:
        return planned
    multiple = scaled(seen, inputs, signals[0])
    if multiple is not None:
      return multiple
  if all(_aligned(signals[0], other) for other in signals[1:]):
    return _pointwise(seen, inputs, signals)
  return _of_signals_or_gate(reader, seen, inputs)


def _is_linear(signal: Signal) -> bool:
  return signal.is_linear or expressions.as_line(signal.expression, radius_of(signal)) is not None


def _aligned(a: Signal, b: Signal) -> bool:
  """Whether two signals are elementwise functions of the same entries."""
  return a.node is b.node and a.layout == b.layout


def _pointwise(seen: Equation, inputs: list[Value], signals: list[Signal]) -> Signal:
  """A primitive of one signal, perhaps in several forms: its expression grows."""
  base = next((s for s in signals if not s.is_linear), signals[0])
  arguments: list[Expression | float] = []
  for value in inputs:
    if isinstance(value, Known):
      arguments.append(value.value)
    else:
      ratio = value.scale / base.scale if base.scale else 0.0
      arguments.append(value.expression.of(expressions.scaled(VARIABLE, ratio)))
  expression = expressions.apply(seen.name, tuple(arguments), seen.parameters)
  axes = max((s.axes for s in signals), key=len)
  return dataclasses.replace(base, axes=axes, expression=expression, place=base.place or seen.place)


def _sum(reader: Reader, seen: Equation, signals: list[Signal]) -> Signal:
  """A sum or difference of two signals."""
  first, second = (linear(reader, signal, seen) for signal in signals)
  if first.node is second.node and first.layout != second.layout and first.scale and second.scale:
    reader.findings.error(
      "dependent branches",
      seen.place,
      "a signal is added to a rearranged copy of itself",
      "end one of the two branches with a linear or convolutional layer.",
    )
    return dataclasses.replace(first, scale=first.node.corrected)
  sign = -1.0 if seen.name == "sub" else 1.0
  terms = [
    (first.node, as_started(first.node, first.coefficient)),
    (second.node, sign * as_started(second.node, second.coefficient)),
  ]
  node, factor = reader.network.add(terms, seen.place, seen.tolerance)
  axes = first.axes if len(first.axes) >= len(second.axes) else second.axes
  unsure = first.is_unsure or second.is_unsure
  if unsure:
    node.is_mended, node.finding = True, None
  return Signal(node, factor * node.corrected, axes, is_unsure=unsure)


def _of_signals_or_gate(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """Signals of different origin: a sum, or something that the theory does not cover."""
  signals = [value for value in inputs if isinstance(value, Signal)]
  if len(signals) == 2 and seen.name in ("add", "sub", "add_any"):
    return _sum(reader, seen, signals)
  if len(signals) < 2:
    if signals and all(isinstance(value, (Signal, Known)) for value in inputs):
      return _of_signals(reader, seen, inputs)
    return Unreadable()
  if seen.name in ("mul", "div"):
    kind, what = "gating", "two signals are multiplied entry by entry"
  else:
    kind, what = "unknown combination", f"two signals are combined by {seen.name}"
  node = report_later(
    reader,
    seen,
    kind,
    what,
    "C maps do not cover it: use a sum with constant weights, or describe the network by hand with"
    " tatnet.sequence and tatnet.weighted_sum. A mask of what is there can be given as booleans.",
  )
  axes = max((s.axes for s in signals), key=len)
  return Signal(node, 1.0, axes)
