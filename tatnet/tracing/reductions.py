"""Rules for reductions over axes and over windows: pooling and normalisation."""

import dataclasses
import functools
import math

import numpy as np

from tatnet.layer import quadrature
from tatnet.tracing import axes as axis_labels
from tatnet.tracing import expressions
from tatnet.tracing.expressions import VARIABLE
from tatnet.tracing.normalisation import mean_of
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable, without_signal
from tatnet.tracing.signals import averaged, linear, pooled, report_max_pooling
from tatnet.tracing.values import Known, Signal, Statistic, Value, Weights
from tatnet.tracing.weights import reduced


def reduce_sum(reader: Reader, seen: Equation) -> list[Value]:
  """A sum over axes."""
  over = tuple(seen.parameters["axes"])
  count = axis_labels.count(seen.in_shapes[0], over)
  if isinstance(seen.inputs[0], Known):
    return [Known(seen.inputs[0].value * count)]
  return _reduce(reader, seen, over, count)


def sum_over_devices(reader: Reader, seen: Equation) -> list[Value]:
  """A sum over an axis of vmap, or over the devices that hold parts of one matrix product."""
  if seen.parameters.get("axes") and not any(isinstance(a, int) for a in seen.parameters["axes"]):
    return list(seen.inputs)
  return reduce_sum(reader, seen)


def reduce_max(reader: Reader, seen: Equation) -> list[Value]:
  """A maximum over axes: inside a softmax, or max pooling."""
  if isinstance(seen.inputs[0], Known):
    return list(seen.inputs)
  return _reduce(reader, seen, tuple(seen.parameters["axes"]), None)


def _reduce(
  reader: Reader, seen: Equation, over: tuple[int, ...], count: int | None
) -> list[Value]:
  (value,) = seen.inputs
  if isinstance(value, Weights):
    return [reduced(value, count)]
  if not is_signal(value):
    return without_signal(seen)
  if not isinstance(value, (Signal, Statistic)):
    return unreadable(seen)
  if not over:
    return [value]
  labels = frozenset(value.axes[i] for i in over)
  if isinstance(value, Signal) and value.node.is_raw and value.is_linear and "b" not in labels:
    axes = axis_labels.reduced(value.axes, over)  # preprocessing
    step = "reduce locations" if labels == {"s"} else "reduce"
    made = dataclasses.replace(value, axes=axes, layout=(*value.layout, (step, over)))
    if not (value.layout and value.layout[-1][0] == "square" and "f" in labels and count):
      return [made]
    size = value.layout[-1][1] ** 2 * count  # what divides the input by its length, perhaps
    return [Statistic(value.node, size, axes, labels, lambda: made, size=count)]
  if isinstance(value, Statistic) and value.over <= {"s", "b"} and "f" in labels:
    value = pooled(reader, value, seen)  # a statistic of what was averaged over locations
  axes = axis_labels.reduced(value.axes, over)
  if isinstance(value, Statistic):
    return [
      dataclasses.replace(
        value,
        value=value.value * (count or 1),
        axes=axes,
        over=value.over | labels,
        pooled=value.pooled and functools.partial(_pooled_again, reader, value, seen, over, count),
        source=None,
        is_maximum=value.is_maximum or count is None,
        size=value.size * axis_labels.count(seen.in_shapes[0], over),
      )
    ]
  mean = mean_of(value) if value.is_linear else _mean(value)
  return [
    Statistic(
      value.node,
      mean * (count or 1),
      axes,
      labels,
      functools.partial(_pooled, reader, value, seen, over, count),
      source=value.expression if count is not None else None,
      is_maximum=count is None,
      size=axis_labels.count(seen.in_shapes[0], over),
    )
  ]


def _pooled(
  reader: Reader, signal: Signal, seen: Equation, over: tuple[int, ...], count: int | None
) -> Signal:
  """The signal as pooling leaves it."""
  signal = linear(reader, signal, seen)
  axes = axis_labels.reduced(signal.axes, over)
  key = (*signal.layout, ("reduce", seen.name, over))
  summed = dataclasses.replace(signal, axes=axes, layout=key, scale=signal.scale * (count or 1))
  return averaged(reader, summed, count or 1, seen.place, key)


def _pooled_again(
  reader: Reader, statistic: Statistic, seen: Equation, over: tuple[int, ...], count: int | None
) -> Signal | None:
  signal = statistic.pooled()
  return signal and _pooled(reader, signal, seen, over, count)


def _mean(signal: Signal) -> float:
  """Expected value of an elementwise function of the signal; NaN if it is not known."""
  scale = signal.coefficient
  if not (signal.node.is_gaussian or signal.node.is_raw):
    # Behind an activation mean and mean square are known, and with them those of a parabola.
    points = scale * np.array([-2.0, -1.0, 0.0, 0.7, 1.0, 2.0])
    values = expressions.evaluate(signal.expression, points)
    a, b, c = np.polyfit(points, values, 2)
    off = np.abs(values - np.polyval((a, b, c), points)).max()
    mean = mean_of(dataclasses.replace(signal, expression=VARIABLE))
    return math.nan if off > 1e-9 * np.abs(values).max() else float(a * scale**2 + b * mean + c)
  z, w = quadrature.normal_rule(panels=96)
  with np.errstate(all="ignore"):
    return float(w @ expressions.evaluate(signal.expression, scale * z))


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
  signal = _windowed(linear(reader, value, seen), seen, size)
  return [averaged(reader, signal, size, seen.place, signal.layout)]


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
