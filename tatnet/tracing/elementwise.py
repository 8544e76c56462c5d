"""Rules for elementwise primitives: scaling, sums, normalisation, nonlinearities."""

import dataclasses
import math

import numpy as np

from tatnet.tracing import expressions
from tatnet.tracing.expressions import VARIABLE, Expression
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable, without_signal
from tatnet.tracing.signals import linear, pooled, root_mean_square, without_softmax
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value, Weights


def elementwise(reader: Reader, seen: Equation) -> list[Value]:
  """Any elementwise primitive."""
  if not any(is_signal(value) for value in seen.inputs):
    return [_without_signal(seen)]
  if any(isinstance(value, Unreadable) for value in seen.inputs):
    return unreadable(seen)
  inputs = [_initial(reader, value, seen) for value in seen.inputs]
  if seen.name == "select_n" and isinstance(inputs[0], Known):
    return [inputs[1 + int(inputs[0].value)]]
  if seen.name == "select_n" and isinstance(inputs[0], Data):
    return [_select(reader, seen, inputs)]
  if any(isinstance(value, Data) for value in inputs):
    return [_with_data(reader, seen, inputs)]
  statistics = [value for value in inputs if isinstance(value, Statistic)]
  signals = [value for value in inputs if isinstance(value, Signal)]
  if statistics and not signals:
    return [_of_statistics(reader, seen, inputs, statistics)]
  if statistics:
    return [_with_statistic(reader, seen, inputs, signals, statistics)]
  return [_of_signals(reader, seen, inputs, signals)]


def _without_signal(seen: Equation) -> Value:
  """Constants are folded, parameters keep track of their initial value."""
  inputs = seen.inputs
  numbers = [v.value if isinstance(v, Known) else getattr(v, "initial", None) for v in inputs]
  folded = None
  if all(number is not None for number in numbers):
    folded = _number(seen, numbers)
  state = next((v for v in inputs if isinstance(v, Data) and v.kind == "state"), None)
  if state is not None:  # a gain times a running statistic is still part of a normalisation
    return state
  leaves = frozenset().union(*(v.leaves for v in inputs if isinstance(v, Weights)))
  if leaves:
    certain = all(v.certain for v in inputs if isinstance(v, Weights))
    return Weights(leaves, folded, certain)
  if folded is not None:
    return Known(folded)
  if seen.name == "lt" and inputs[0] == Data("random") and isinstance(inputs[1], Known):
    return Data("mask", keep=inputs[1].value)  # uniform < keep
  masks = [v for v in inputs if isinstance(v, Data) and v.kind == "mask"]
  if masks and seen.name == "mul" and len(inputs) == 2:
    return masks[0]
  return without_signal(seen)[0]


def _number(seen: Equation, numbers: list[float]) -> float | None:
  expression = expressions.apply(seen.name, tuple(numbers), seen.parameters)
  with np.errstate(all="ignore"):
    try:
      value = float(expressions.evaluate(expression, np.zeros(1))[0])
    except (TypeError, ValueError):  # integers and bits
      return None
  return value


def _initial(reader: Reader, value: Value, seen: Equation) -> Value:
  """A parameter beside a signal acts by its initial value."""
  if not isinstance(value, Weights):
    return value
  if value.initial is not None:
    return Known(value.initial)
  neutral = 1.0 if seen.name in ("mul", "div") else 0.0
  if value.certain:
    reader.findings.error(
      "parameter without a uniform initial value",
      seen.place,
      f"{min(value.leaves)} is {_VERB.get(seen.name, 'combined with')} a signal, entry by entry, and"
      " does not start at one number",
      f"let it start at {neutral:g} (biases at 0, gains at 1).",
    )
  return Known(neutral)


_VERB = {"mul": "multiplied by", "div": "divided by", "add": "added to", "sub": "subtracted from"}


def _select(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """select(mask, ...): dropout keeps its mean; other masks are not understood."""
  mask, *cases = inputs
  signals = [value for value in cases if isinstance(value, Signal)]
  if mask.kind == "mask" and len(signals) == 1 and Known(0.0) in cases:
    return dataclasses.replace(signals[0], scale=signals[0].scale * mask.keep)
  return _with_data(reader, seen, inputs)


def _with_data(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """A signal beside constants that are not uniform, random numbers or running statistics."""
  data = next(value for value in inputs if isinstance(value, Data))
  if any(isinstance(value, Statistic) for value in inputs) and data.kind == "state":
    return data  # running statistics being updated
  signals = [v for v in (pooled(reader, v, seen) for v in inputs) if isinstance(v, Signal)]
  if not signals:
    return Unreadable()
  signal = linear(reader, signals[0], seen)
  if data.kind == "mask" and seen.name == "mul":
    return dataclasses.replace(signal, scale=signal.scale * data.keep)
  if data.kind == "state":
    _report_batch_norm(reader, seen)
    return dataclasses.replace(signal, scale=signal.node.corrected)
  if signal.node.kind == "input":  # preprocessing, masks and positions of the input
    return dataclasses.replace(signal, scale=1.0)
  if seen.name in ("mul", "div", "select_n"):
    what, remedy = "multiplied by", "keep it out of the network, or use a uniform constant"
  else:
    what, remedy = "combined with", "keep it out of the network"
  if data.kind == "random":
    reader.findings.error(
      "noise",
      seen.place,
      "the signal is combined with random numbers",
      "trace the network without it.",
    )
  else:
    reader.findings.error(
      "constant array",
      seen.place,
      f"the signal is {what} an array of constants that differ",
      f"{remedy}.",
    )
  return signal


def _of_statistics(reader, seen, inputs: list[Value], statistics: list[Statistic]) -> Value:
  """Arithmetic among statistics and constants, such as ``rsqrt(mean(x^2) - mean(x)^2 + eps)``."""
  if len({s.node for s in statistics}) > 1:
    return _of_signals_or_gate(reader, seen, [pooled(reader, v, seen) for v in inputs])
  value = _number(seen, [v.value for v in inputs])
  first = statistics[0]
  result = None
  if len(statistics) == 1 and first.pooled is not None:
    arguments = [first.pooled if v is first else v for v in inputs]
    result = _of_signals(reader, seen, arguments, [first.pooled])
  return Statistic(
    first.node,
    math.nan if value is None else value,
    max((s.axes for s in statistics), key=len),
    frozenset().union(*(s.over for s in statistics)),
    result if isinstance(result, Signal) else None,
    is_maximum=first.is_maximum,
  )


def _with_statistic(
  reader, seen: Equation, inputs: list[Value], signals: list[Signal], statistics: list[Statistic]
) -> Value:
  """A signal beside a statistic: of itself, which normalises it, or of another.

  In a wide network a statistic of the signal itself is a number, the same for all
  inputs of the same q. So normalisation acts entry by entry, with that number.
  """
  signal, statistic = signals[0], statistics[0]
  known = math.isfinite(statistic.value) and (statistic.value or seen.name != "div")
  if statistic.node is not signal.node or len(inputs) != 2 or not known:
    return _of_signals_or_gate(reader, seen, [pooled(reader, v, seen) for v in inputs])
  over_batch = "b" in statistic.over
  if over_batch:
    _report_batch_norm(reader, seen)
  if seen.name in ("sub", "add") and (signal.is_linear or statistic.is_maximum):
    return signal  # the mean is 0; a maximum is subtracted for safety only
  if seen.name == "div" and not signal.is_linear and statistic.source == signal.expression:
    return dataclasses.replace(signal, softmax=True)
  value = statistic.value
  if seen.name in ("mul", "div"):
    size = root_mean_square(signal)
    gain = size * value if seen.name == "mul" else size / value
    # epsilon in the denominator moves the gain a little away from 1. A batch
    # normalisation that is gone, as its finding asks, leaves no gain behind.
    gain = 1.0 if over_batch or abs(gain - 1) < 1e-2 else gain
    if signal.is_linear:
      reader.network.consume_sum(signal.node, signal.coefficient, seen.tolerance)
      size = root_mean_square(signal)
    value = gain / size if seen.name == "mul" else size / gain
  arguments = [Known(value) if v is statistic else v for v in inputs]
  return _of_signals(reader, seen, arguments, [signal])


def _report_batch_norm(reader: Reader, seen: Equation) -> None:
  reader.findings.error(
    "batch normalisation",
    seen.place.removesuffix("/mean_ema").removesuffix("/var_ema"),
    "a signal is normalised by statistics over the batch",
    "remove it: a shaped network keeps q = 1 by itself. Layer normalisation is allowed.",
  )


def _of_signals(reader, seen, inputs: list[Value], signals: list[Signal]) -> Value:
  """Constants and signals only."""
  softmax = next((signal for signal in signals if signal.softmax), None)
  if softmax is not None:
    return without_softmax(reader, softmax, seen) if len(signals) > 1 else softmax
  is_sum = seen.name in ("add", "sub", "add_any") and len(signals) == 2
  if is_sum and (not _aligned(*signals) or all(_is_linear(s) for s in signals)):
    return _sum(reader, seen, signals)
  if len(signals) == 1 and signals[0].is_linear:
    scaled = _scaled(seen, inputs, signals[0])
    if scaled is not None:
      return scaled
  if all(_aligned(signals[0], other) for other in signals[1:]):
    return _pointwise(seen, inputs, signals)
  return _of_signals_or_gate(reader, seen, inputs)


def _is_linear(signal: Signal) -> bool:
  return signal.is_linear or expressions.as_line(signal.expression) is not None


def _aligned(a: Signal, b: Signal) -> bool:
  """Whether two signals are elementwise functions of the same entries."""
  return a.node is b.node and a.layout == b.layout


def _scaled(seen: Equation, inputs: list[Value], signal: Signal) -> Signal | None:
  """The result if the primitive only multiplies by a constant, or does nothing."""
  name = seen.name
  numbers = [value.value for value in inputs if isinstance(value, Known)]
  if name == "neg":
    factor = -1.0
  elif name == "mul" and numbers:
    factor = numbers[0]
  elif name == "div" and isinstance(inputs[0], Signal) and numbers and numbers[0]:
    factor = 1 / numbers[0]
  elif name in ("add", "sub", "add_any") and numbers == [0.0]:
    factor = -1.0 if name == "sub" and isinstance(inputs[1], Signal) else 1.0
  else:
    return None
  return dataclasses.replace(signal, scale=signal.scale * factor)


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
  if first.node is second.node and first.layout != second.layout:
    reader.findings.error(
      "dependent branches",
      seen.place,
      "a signal is added to a rearranged copy of itself",
      "end one of the two branches with a linear or convolutional layer.",
    )
    return dataclasses.replace(first, scale=first.node.corrected)
  sign = -1.0 if seen.name == "sub" else 1.0
  terms = [(first.node, first.coefficient), (second.node, sign * second.coefficient)]
  node, factor = reader.network.add(terms, seen.place, seen.tolerance)
  axes = first.axes if len(first.axes) >= len(second.axes) else second.axes
  return Signal(node, factor * node.corrected, axes)


def _of_signals_or_gate(reader: Reader, seen: Equation, inputs: list[Value]) -> Value:
  """Signals of different origin: a sum, or something that the theory does not cover."""
  signals = [value for value in inputs if isinstance(value, Signal)]
  if len(signals) == 2 and seen.name in ("add", "sub", "add_any"):
    return _sum(reader, seen, signals)
  if len(signals) < 2:
    if signals and all(isinstance(value, (Signal, Known)) for value in inputs):
      return _of_signals(reader, seen, inputs, signals)
    return Unreadable()
  if seen.name in ("mul", "div"):
    kind, what = "gating", "two signals are multiplied entry by entry"
  else:
    kind, what = "unknown combination", f"two signals are combined by {seen.name}"
  reader.findings.error(
    kind,
    seen.place,
    what,
    "C maps do not cover it: use a sum with constant weights, or describe the network by hand with"
    " tatnet.sequence and tatnet.weighted_sum.",
  )
  return signals[0]
