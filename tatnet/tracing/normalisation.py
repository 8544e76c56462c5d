"""Statistics of a signal: what normalises it, and what is a signal in its own right."""

import dataclasses
import math
from collections.abc import Callable

from tatnet.tracing import constants
from tatnet.tracing.expressions import VARIABLE
from tatnet.tracing.findings import Finding
from tatnet.tracing.means import mean_share
from tatnet.tracing.nodes import Node
from tatnet.tracing.program import Equation, Reader, report_later
from tatnet.tracing.signals import linear, pooled, root_mean_square
from tatnet.tracing.values import Known, Signal, Statistic, Value

# How a rule reads constants and signals, and how it reads signals of different origin.
Combine = Callable[[Reader, Equation, list[Value]], Value]


def of_statistics(
  reader: Reader,
  seen: Equation,
  inputs: list[Value],
  of_signals: Combine,
  of_different: Combine,
) -> Value:
  """Arithmetic among statistics and constants, such as ``rsqrt(mean(x^2) - mean(x)^2 + eps)``."""
  statistics = [value for value in inputs if isinstance(value, Statistic)]
  for one in statistics:
    for other in statistics:
      if one is not other and one.over <= {"s", "b"} and "f" in other.over:
        # What was averaged over locations, beside a statistic of just that.
        signal = pooled(reader, one, seen)
        if isinstance(signal, Signal) and other.node.comes_from(signal.node):
          replaced = [signal if value is one else value for value in inputs]
          return with_statistic(reader, seen, replaced, of_signals, of_different)
  if len({s.node for s in statistics}) > 1:
    return of_different(reader, seen, [pooled(reader, v, seen) for v in inputs])
  first = statistics[0]

  def as_signals() -> Signal | None:
    result = of_signals(reader, seen, [pooled(reader, v, seen) for v in inputs])
    return result if isinstance(result, Signal) else None

  value = constants.number(seen, [v.value for v in inputs])
  return Statistic(
    first.node,
    math.nan if value is None else value,
    max((s.axes for s in statistics), key=len),
    frozenset().union(*(s.over for s in statistics)),
    None if any(s.pooled is None for s in statistics) else as_signals,
    is_maximum=first.is_maximum,
    size=first.size,
  )


def with_statistic(
  reader: Reader,
  seen: Equation,
  inputs: list[Value],
  of_signals: Combine,
  of_different: Combine,
) -> Value:
  """A signal beside a statistic: of itself, which normalises it, or of another.

  In a wide network a statistic of the signal itself is a number, the same for all
  inputs of the same q. So normalisation acts entry by entry, with that number.
  """
  signal = next(value for value in inputs if isinstance(value, Signal))
  statistic = next(value for value in inputs if isinstance(value, Statistic))
  if not signal.node.comes_from(statistic.node) or len(inputs) != 2:
    return of_different(reader, seen, [pooled(reader, v, seen) for v in inputs])
  if statistic.is_maximum and seen.name == "sub":
    return signal  # for safety only
  known = math.isfinite(statistic.value) and (statistic.value or seen.name != "div")
  if statistic.is_maximum or not known:
    return _of_unknown_size(reader, seen, signal)
  if seen.name == "div" and not signal.is_linear and statistic.source == signal.expression:
    return dataclasses.replace(signal, softmax=True)
  over_batch = "b" in statistic.over
  if over_batch:
    signal = linear(reader, signal, seen)
    node = batch_normalised(reader, signal.node, seen)
    signal = dataclasses.replace(signal, node=node, scale=signal.coefficient)
  elif "f" not in statistic.over:
    reader.findings.warn(
      "instance normalisation",
      seen.place,
      "each feature is normalised by statistics over locations: where these are alike, most of the"
      " signal goes with its mean, and its cosines change",
      "normalise over the features too, as layer and group normalisation do, or leave it out.",
    )
    return _mended(reader, signal, seen)
  if seen.name in ("sub", "add") and signal.is_linear:
    if over_batch or signal.node.is_raw:
      return signal
    node, factor = reader.network.centred(signal.node, seen.place)
    return dataclasses.replace(
      signal, node=node, scale=signal.coefficient * factor * node.corrected
    )
  if seen.name not in ("mul", "div"):
    return of_signals(reader, seen, [Known(v.value) if v is statistic else v for v in inputs])
  return _normalised(reader, seen, signal, statistic.value, over_batch)


def _normalised(
  reader: Reader, seen: Equation, signal: Signal, value: float, over_batch: bool
) -> Signal:
  """A signal times or divided by a statistic of itself."""
  size = root_mean_square(signal)
  gain = size * value if seen.name == "mul" else size / value
  # epsilon in the denominator moves the gain a little away from 1. A batch
  # normalisation that is gone, as its finding asks, leaves no gain behind.
  gain = 1.0 if over_batch or abs(gain - 1) < 1e-2 else gain
  signal = linear(reader, signal, seen)
  if signal.node.is_raw and gain == 1:
    return dataclasses.replace(signal, scale=1.0)
  node = reader.network.passed("normalised", signal.node, None, seen.place)
  return dataclasses.replace(signal, node=node, scale=math.copysign(gain, signal.scale or 1.0))


def _of_unknown_size(reader: Reader, seen: Equation, signal: Signal) -> Value:
  """A signal beside a statistic of it whose value at initialisation is not known."""
  if signal.node.is_raw:  # preprocessing
    return dataclasses.replace(signal, scale=1.0, expression=VARIABLE)
  node = report_later(
    reader, seen, "normalisation of unknown size",
    "a signal is normalised by its largest entry, or by a mean of what a function makes of it",
    "divide by the root mean square over the features, which keeps q at 1.",
  )  # fmt: skip
  return Signal(node, 1.0, signal.axes, layout=signal.layout)


def _mended(reader: Reader, signal: Signal, seen: Equation) -> Signal:
  """The signal as if it had its own size, after something was reported."""
  signal = linear(reader, signal, seen)
  node = reader.network.passed("normalised", signal.node, None, seen.place)
  return dataclasses.replace(signal, node=node, scale=1.0)


def mean_of(signal: Signal) -> float:
  """The mean over features of a multiple of a node."""
  share, _ = mean_share(signal.node.mean)
  return signal.coefficient * math.sqrt(share)


def batch_normalised(reader: Reader, node: Node, seen: Equation) -> Node:
  """A signal that is normalised over the batch, which is reported if layers read it."""
  finding = Finding(
    "batch normalisation",
    seen.place.removesuffix("/mean_ema").removesuffix("/var_ema"),
    "a signal is normalised by statistics over the batch",
    "remove it: a shaped network keeps q = 1 by itself. Layer normalisation is allowed.",
  )
  return reader.network.reported([node], finding)
