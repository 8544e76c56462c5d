"""Turning what is known of a value into nodes of the network."""

import dataclasses
import math

import numpy as np

from tatnet.layer import quadrature
from tatnet.network.builders import identity
from tatnet.tracing import expressions
from tatnet.tracing.expressions import VARIABLE
from tatnet.tracing.findings import Finding
from tatnet.tracing.nodes import Node
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.values import Known, Signal, Statistic, Unreadable, Value

_FAINT, _LOUD = 1e-2, 1e2


def pooled(reader: Reader, value: Value, seen: Equation) -> Value:
  """The value, where a statistic that is used as a signal is a pooling."""
  if not isinstance(value, Statistic) or value.pooled is None:
    return value
  if value.is_maximum:
    report_max_pooling(reader, seen.place)
  if "f" in value.over:
    finding = Finding(
      "pooling over features",
      seen.place,
      "a signal is averaged over its features, which leaves a number of vanishing size",
      "pool over locations only, and let a layer with weights combine features.",
    )
    node = reader.network.reported([value.node], finding)
    return Signal(node, 0.0, value.axes)
  return value.pooled() or Unreadable()


def starts_at_zero(value: Value) -> bool:
  """Whether a value is 0 at initialisation."""
  if isinstance(value, Known):
    return value.value == 0
  return isinstance(value, Signal) and value.is_linear and value.scale == 0


def averaged(reader: Reader, signal: Signal, size: int, place: str, key) -> Signal:
  """A signal averaged over that many locations; their sum is as many times as large.

  Args:
    reader: the reader.
    signal: the average, as a multiple of the node that was averaged.
    size: number of locations.
    place: where in the model.
    key: what else tells one average of a signal from another.
  """
  if signal.node.is_raw:
    return signal
  pools = frozenset({(place, size)}) if size > 1 else frozenset()
  # What all features share behind it depends on how alike the locations are.
  node = reader.network.passed("averaged", signal.node, key, place, pools=pools, mean=identity())
  return Signal(node, signal.coefficient * node.corrected, signal.axes)


def report_max_pooling(reader: Reader, place: str) -> None:
  """The note on max pooling."""
  reader.findings.warn(
    "max pooling",
    place,
    "maxima over locations, which C maps do not describe",
    "keep it to one near the input, as in a ResNet's stem, or use average pooling.",
  )


def without_softmax(reader: Reader, signal: Signal, seen: Equation) -> Signal:
  """What stands for a signal behind its softmax, which has no map where layers follow."""
  finding = Finding(
    "softmax attention",
    seen.place,
    "a signal is mixed by the softmax of another",
    "attention that depends on the data from the start is not covered by C maps. Let it start as it is"
    " planned, with queries of zero: tatnet.attention.planned_attention, or"
    " log_attention and row_scale of a schedule; or as the identity: tatnet.attention.shaped_attention."
    " Else shape the dense layers by a topology written by hand.",
  )
  node = reader.network.reported([signal.node], finding)
  return Signal(node, 1.0, signal.axes)


def root_mean_square(signal: Signal) -> float:
  """Size of a signal's entries."""
  z, w = quadrature.normal_rule(panels=96)
  with np.errstate(all="ignore"):
    return float(np.sqrt(w @ expressions.evaluate(signal.expression, signal.coefficient * z) ** 2))


def radius_of(signal: Signal) -> float:
  """How far from 0 the values lie that an expression of a signal is applied to."""
  return quadrature.RADIUS * (abs(signal.coefficient) or 1.0)


def settle(reader: Reader, signal: Signal, seen: Equation) -> tuple[Node, float]:
  """The node whose multiple a signal is; a nonlinear expression becomes a layer.

  Returns:
    A unit-q node and the factor on it.
  """
  node, scale = signal.node, signal.coefficient
  if signal.is_linear:
    return node, scale
  radius = radius_of(signal)
  line = expressions.as_line(signal.expression, radius)
  if line is not None:
    slope, offset = line
    if not slope:
      reader.findings.error(
        "nonlinearity without a map",
        signal.place or seen.place,
        f"a function is {offset:.4g} wherever a signal of q = {scale**2:.3g} lies",
        "use a function that is finite everywhere, not constant and not too steep.",
      )
      return reader.network.mended(node, seen.place), 1.0
    if offset and not node.is_raw:
      reader.findings.error(
        "constant added to a signal",
        seen.place,
        f"the number {offset:.4g} is added",
        "remove it, or let a layer's bias, starting at zero, learn it.",
      )
    return node, slope * scale
  place = signal.place or seen.place
  if abs(node.made_with - 1) > seen.tolerance:
    scale = reader.network.consume_sum(node, scale, seen.tolerance)
  if not _FAINT <= scale**2 <= _LOUD:
    reader.findings.warn(
      "q far from 1",
      place,
      f"the signal enters a nonlinearity with q = {scale**2:.3g}",
      "scale the layers before it so that q stays near 1, or transform their activations.",
    )
  if expressions.jumps(signal.expression, radius):
    reader.findings.error(
      "discontinuous nonlinearity",
      place,
      "a function that jumps is applied to a signal",
      "use a continuous one: at a jump the slope of the C map is infinite.",
    )
  try:
    expression, outer = expressions.without_factor(signal.expression)
    # Rounded, so that layers which differ by rounding alone are equal.
    scale = float(f"{scale:.12g}")
    activation, factor = expressions.as_unit_layer(expression, scale)
  except (ValueError, TypeError, ArithmeticError) as error:
    if not node.is_gaussian:  # what it is applied to is at fault, whatever the function
      reader.network.look_before(node, place)
      return reader.network.mended(node, place), 1.0
    reader.findings.error(
      "nonlinearity without a map",
      place,
      f"an elementwise function has no C map: {error}",
      "use a function that is finite everywhere, not constant and not too steep.",
    )
    return reader.network.mended(node, place), 1.0
  key = (signal.layout, expression, round(scale, 9))
  return reader.network.nonlinear(node, activation, key, place), factor * outer


def linear(reader: Reader, signal: Signal, seen: Equation) -> Signal:
  """The same signal with its nonlinear expression, if any, turned into a layer."""
  if signal.is_linear:
    return signal
  node, factor = settle(reader, signal, seen)
  return dataclasses.replace(
    signal, node=node, scale=factor * node.corrected, expression=VARIABLE, place=""
  )


def as_started(node: Node, factor: float) -> float:
  """A factor on weights of variance 1 that undoes their size, 1 / sqrt(inputs), is part of it.

  So is sqrt(features) on embeddings of variance 1 / features.
  """
  undone = node.kind == "affine" and abs(abs(factor) * math.sqrt(node.inputs) - 1) < 1e-6
  return math.copysign(1.0, factor) if undone else factor


def consumed(reader: Reader, signal: Signal, seen: Equation) -> tuple[Node, float]:
  """As `settle`, for a use that asks for q = 1 of a sum: weights or the activation."""
  node, factor = settle(reader, signal, seen)
  factor = as_started(node, factor)
  if node.kind == "centred" and node.size_unknown:
    reader.findings.error(
      "mean subtracted",
      node.place,
      "the mean over features is subtracted from the output of an activation, which takes C(0) of"
      " it away from q",
      "normalise as well, as layer normalisation does, or leave it out.",
    )
    return reader.network.mended(node, seen.place), 1.0
  return node, reader.network.consume_sum(node, factor, seen.tolerance)
