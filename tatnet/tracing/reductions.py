"""Rules for reductions over axes and over windows: pooling and normalisation."""

import dataclasses
import math

import numpy as np

from tatnet.layer import quadrature
from tatnet.tracing import axes as axis_labels
from tatnet.tracing import expressions
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable, without_signal
from tatnet.tracing.signals import linear, pooled, report_max_pooling
from tatnet.tracing.values import Known, Signal, Statistic, Value


def reduce_sum(reader: Reader, seen: Equation) -> list[Value]:
  """A sum over axes."""
  del reader
  over = tuple(seen.parameters["axes"])
  count = axis_labels.count(seen.in_shapes[0], over)
  if isinstance(seen.inputs[0], Known):
    return [Known(seen.inputs[0].value * count)]
  return _reduce(seen, over, count)


def reduce_max(reader: Reader, seen: Equation) -> list[Value]:
  """A maximum over axes: inside a softmax, or max pooling."""
  del reader
  return _reduce(seen, tuple(seen.parameters["axes"]), None)


def _reduce(seen: Equation, over: tuple[int, ...], count: int | None) -> list[Value]:
  (value,) = seen.inputs
  if not is_signal(value):
    return without_signal(seen)
  if not isinstance(value, (Signal, Statistic)):
    return unreadable(seen)
  if not over:
    return [value]
  axes = axis_labels.reduced(value.axes, over)
  labels = frozenset(value.axes[i] for i in over)
  if isinstance(value, Statistic):
    return [
      dataclasses.replace(
        value,
        value=value.value * (count or 1),
        axes=axes,
        over=value.over | labels,
        pooled=value.pooled and _pool(value.pooled, seen, over, count),
        source=None,
        is_maximum=value.is_maximum or count is None,
      )
    ]
  mean = 0.0 if value.is_linear else _mean(value)
  return [
    Statistic(
      value.node,
      mean * (count or 1),
      axes,
      labels,
      _pool(value, seen, over, count),
      source=value.expression if count is not None else None,
      is_maximum=count is None,
    )
  ]


def _pool(signal: Signal, seen: Equation, over: tuple[int, ...], count: int | None) -> Signal:
  """The signal as pooling leaves it."""
  axes = axis_labels.reduced(signal.axes, over)
  layout = (*signal.layout, ("reduce", seen.name, over))
  return _times(dataclasses.replace(signal, axes=axes, layout=layout), count or 1)


def _times(signal: Signal, factor: float) -> Signal:
  """A multiple of a signal, linear or not."""
  if signal.is_linear:
    return dataclasses.replace(signal, scale=signal.scale * factor)
  return dataclasses.replace(signal, expression=expressions.scaled(signal.expression, factor))


def _mean(signal: Signal) -> float:
  """Expected value of an elementwise function of the signal."""
  z, w = quadrature.normal_rule(panels=96)
  with np.errstate(all="ignore"):
    return float(w @ expressions.evaluate(signal.expression, signal.coefficient * z))


def window_sum(reader: Reader, seen: Equation) -> list[Value]:
  """Average pooling, before its division; counts of entries under a window are constants."""
  value, size = (
    pooled(reader, seen.inputs[0], seen),
    math.prod(seen.parameters["window_dimensions"]),
  )
  if isinstance(value, Known):
    # At the border fewer entries lie under the window; the interior decides.
    return [Known(value.value * size)]
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else without_signal(seen)
  signal = linear(reader, value, seen)
  return [_windowed(signal, seen, size)]


def window_max(reader: Reader, seen: Equation) -> list[Value]:
  """Max pooling: tolerated near the input, with a note."""
  value = pooled(reader, seen.inputs[0], seen)
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else without_signal(seen)
  report_max_pooling(reader, seen.place)
  return [_windowed(linear(reader, value, seen), seen, 1)]


def _windowed(signal: Signal, seen: Equation, size: int) -> Signal:
  layout = (*signal.layout, ("window", seen.place))
  return dataclasses.replace(signal, scale=signal.scale * size, layout=layout)
