"""Arithmetic without a signal: constants, random numbers and masks; parameters are in `weights`."""

import dataclasses
import math

import numpy as np

from tatnet.tracing import expressions
from tatnet.tracing.program import Equation, without_signal
from tatnet.tracing.values import Data, Known, Value, Weights
from tatnet.tracing.weights import of_parameters


def arithmetic(seen: Equation) -> Value:
  """Constants are folded, parameters keep track of their initial value and their factor."""
  inputs = seen.inputs
  numbers = [v.value if isinstance(v, Known) else getattr(v, "initial", None) for v in inputs]
  folded = None
  if all(value is not None for value in numbers):
    folded = number(seen, numbers)
  state = next((v for v in inputs if isinstance(v, Data) and v.kind == "state"), None)
  weights = [v for v in inputs if isinstance(v, Weights)]
  if state is not None and not any(v.size > state.size for v in weights):
    return state  # a gain times a running statistic is still part of a normalisation
  if weights:
    return of_parameters(seen, folded)
  if folded is not None:
    return Known(folded)
  return _drawn(seen) or without_signal(seen)[0]


def number(seen: Equation, numbers: list[float]) -> float | None:
  """What a primitive makes of numbers."""
  expression = expressions.apply(seen.name, tuple(numbers), seen.parameters)
  with np.errstate(all="ignore"):
    try:
      value = float(expressions.evaluate(expression, np.zeros(1))[0])
    except (TypeError, ValueError, OverflowError):  # integers and bits
      return None
  return value


_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def _drawn(seen: Equation) -> Data | None:
  """Uniform random numbers in arithmetic, and the masks that comparisons make of them."""
  inputs, name = list(seen.inputs), seen.name
  drawn = [v for v in inputs if isinstance(v, Data) and v.kind in ("random", "mask")]
  numbers = [v.value for v in inputs if isinstance(v, Known)]
  if len(drawn) != 1 or len(drawn) + len(numbers) != len(inputs):
    return None
  (data,) = drawn
  size = data.size or math.prod(seen.out_shapes[0])
  if data.kind == "mask":
    if name == "select_n" and inputs[0] is data and numbers[0] == 0:
      return dataclasses.replace(data, scale=numbers[1], size=size)
    if name == "mul":
      return dataclasses.replace(data, scale=data.scale * numbers[0], size=size)
    if name == "div" and inputs[0] is data and numbers[0]:
      return dataclasses.replace(data, scale=data.scale / numbers[0], size=size)
    return data if name == "convert_element_type" else None
  if name in ("add", "sub") and inputs[0] is data:
    return dataclasses.replace(data, low=data.low + (numbers[0] if name == "add" else -numbers[0]))
  if name == "add":
    return dataclasses.replace(data, low=data.low + numbers[0])
  if name in _MIRRORED:
    name = name if inputs[0] is data else _MIRRORED[name]
    below = min(max(numbers[0] - data.low, 0.0), 1.0)
    return Data("mask", keep=below if name in ("lt", "le") else 1 - below, size=size)
  if name == "floor" and 0 <= data.low <= 1:
    return Data("mask", keep=data.low, size=size)
  return None
