"""What a model does to its inputs before the first weights, and constant factors."""

import dataclasses

from tatnet.tracing.expressions import VARIABLE
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.values import Known, Signal, Value

# What rescales and combines inputs; and what encodes positions and times.
_RESCALING = (
  *("add", "add_any", "sub", "mul", "div", "neg", "integer_pow", "square", "sqrt", "rsqrt"),
  *("max", "min", "clamp", "select_n"),
)
_ENCODING = ("sin", "cos")


def preprocessed(reader: Reader, seen: Equation, inputs: list[Value]) -> Signal | None:
  """Arithmetic and encodings of the raw inputs alone, before the first weights."""
  signals = [value for value in inputs if isinstance(value, Signal)]
  if not all(signal.node.is_raw for signal in signals) or seen.name not in (
    *_RESCALING,
    *_ENCODING,
  ):
    return None
  if seen.name in _ENCODING:
    reader.findings.warn(
      "encoding of the raw input",
      seen.place,
      f"{seen.name} is applied to an input before any weights; maps begin behind it, where q is"
      " taken to be 1",
      "scale encodings so that their mean square is 1, as sqrt(2) does for sines and cosines.",
    )
  first = signals[0]
  if len(signals) == 1 and scaled(seen, inputs, first) is not None:
    return None  # a factor may be the weight of a branch
  axes = max((s.axes for s in signals), key=len)
  step = ("square", first.scale) if _is_square(seen, signals) else ("preprocessed", seen.place)
  layout = (*first.layout, step)
  return dataclasses.replace(first, scale=1.0, axes=axes, layout=layout, expression=VARIABLE)


def _is_square(seen: Equation, signals: list[Signal]) -> bool:
  if seen.name == "mul":
    return len(signals) == 2 and signals[0] == signals[1]
  return seen.name == "square" or (seen.name == "integer_pow" and seen.parameters["y"] == 2)


def scaled(seen: Equation, inputs: list[Value], signal: Signal) -> Signal | None:
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
