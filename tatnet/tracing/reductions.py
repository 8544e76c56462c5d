"""Rules for reductions over axes and over windows: pooling and normalisation."""

import dataclasses
import math

import numpy as np

from tatnet import quadrature
from tatnet.tracing import axes as axis_labels
from tatnet.tracing import expressions
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable, without_signal
from tatnet.tracing.signals import linear, pooled
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
  if isinstance(value, Statistic):
    value = dataclasses.replace(value, axes=axis_labels.reduced(value.axes, over), pooled=None)
    return [dataclasses.replace(value, value=value.value * (count or 1))]
  if not isinstance(value, Signal):
    return unreadable(seen)
  axes = axis_labels.reduced(value.axes, over)
  layout = (*value.layout, ("reduce", seen.name, over))
  as_pool = dataclasses.replace(value, axes=axes, layout=layout)
  if count is not None:
    as_pool = _times(as_pool, count)
  mean = 0.0 if value.is_linear else _mean(value)
  over_batch = "b" in {value.axes[i] for i in over}
  return [Statistic(value.node, mean * (count or 1), axes, over_batch, as_pool, count is None)]


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
  value, size = pooled(seen.inputs[0]), math.prod(seen.parameters["window_dimensions"])
  if isinstance(value, Known):
    # At the border fewer entries lie under the window; the interior decides.
    return [Known(value.value * size)]
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else without_signal(seen)
  signal = linear(reader, value, seen)
  return [_windowed(signal, seen, size)]


def window_max(reader: Reader, seen: Equation) -> list[Value]:
  """Max pooling: tolerated near the input, with a note."""
  value = pooled(seen.inputs[0])
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else without_signal(seen)
  reader.findings.warn(
    "max pooling",
    seen.place,
    "maxima over windows, which C maps do not describe",
    "keep it to one near the input, as in a ResNet's stem, or use average pooling.",
  )
  return [_windowed(linear(reader, value, seen), seen, 1)]


def _windowed(signal: Signal, seen: Equation, size: int) -> Signal:
  layout = (*signal.layout, ("window", seen.place))
  return dataclasses.replace(signal, scale=signal.scale * size, layout=layout)
