"""Turning what is known of a value into nodes of the network."""

import dataclasses

from tatnet.tracing import expressions
from tatnet.tracing.expressions import VARIABLE
from tatnet.tracing.network import Node
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.values import Signal, Statistic, Value

_FAINT, _LOUD = 1e-2, 1e2


def pooled(value: Value) -> Value:
  """A statistic that is used as a signal is a pooling."""
  return value.pooled if isinstance(value, Statistic) and value.pooled is not None else value


def settle(reader: Reader, signal: Signal, seen: Equation) -> tuple[Node, float]:
  """The node whose multiple a signal is; a nonlinear expression becomes a layer.

  Returns:
    A unit-q node and the factor on it.
  """
  node, scale = signal.node, signal.coefficient
  if signal.is_linear:
    return node, scale
  line = expressions.as_line(signal.expression)
  if line is not None:
    slope, offset = line
    if offset and node.kind != "input":
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
  activation, factor = expressions.as_unit_layer(signal.expression, scale)
  key = (signal.layout, signal.expression, round(scale, 9))
  return reader.network.nonlinear(node, activation, key, place), factor


def linear(reader: Reader, signal: Signal, seen: Equation) -> Signal:
  """The same signal with its nonlinear expression, if any, turned into a layer."""
  if signal.is_linear:
    return signal
  node, factor = settle(reader, signal, seen)
  return dataclasses.replace(
    signal, node=node, scale=factor * node.corrected, expression=VARIABLE, place=""
  )


def consumed(reader: Reader, signal: Signal, seen: Equation) -> tuple[Node, float]:
  """As `settle`, for a use that asks for q = 1 of a sum: weights or the activation."""
  node, factor = settle(reader, signal, seen)
  return node, reader.network.consume_sum(node, factor, seen.tolerance)
