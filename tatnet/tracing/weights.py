"""Arithmetic of parameters: how large what is computed from them is.

A parameter is taken to be random, of mean 0 and of variance 1 / inputs of the layer that
it will act in. How many these are is seen only there, so a size is kept as
``factor * inputs ** (-degree / 2)``: of the root mean square of random entries, and of the
value of a statistic, such as a norm, which in wide layers is a number. What has no such
size, as the sign of weights has, is named where it acts on a signal.
"""

import dataclasses
import math

import numpy as np

from tatnet.tracing.program import Equation, without_signal
from tatnet.tracing.values import Data, Known, Value, Weights

_FAINT = 1e-3  # an epsilon in a norm
_SAME = ("neg", "stop_gradient", "copy")


def of_parameters(seen: Equation, folded: float | None) -> Weights:
  """What a primitive makes of parameters and constants.

  Args:
    seen: the equation, no signal among its inputs.
    folded: the number that all entries of the result have, if that is known.
  """
  inputs = seen.inputs
  weights = [value for value in inputs if isinstance(value, Weights)]
  result = dataclasses.replace(
    _computed(seen, weights),
    leaves=frozenset().union(*(v.leaves for v in weights)),
    certain=all(v.certain for v in weights),
    size=max(v.size for v in weights),
    array=None,
    is_integer=any(v.is_integer for v in weights),
  )
  return dataclasses.replace(result, initial=folded)


def _computed(seen: Equation, weights: list[Weights]) -> Weights:
  """The form and size of the result."""
  name, inputs, first = seen.name, seen.inputs, weights[0]
  if first.is_integer or name in _SAME:
    return first
  if name == "select_n":
    return _selected(seen, first)
  if name in ("square", "integer_pow", "pow", "sqrt", "rsqrt"):
    return _power(seen, first)
  if name in ("mul", "div"):
    return _product(seen, *inputs)
  if name in ("add", "add_any", "sub"):
    return _sum(seen, *inputs)
  if first.form == "number" and name in ("max", "min", "clamp", "abs"):
    return first  # guards against 0
  return _unknown(first)


def _unknown(weights: Weights) -> Weights:
  return dataclasses.replace(weights, form="random", is_unknown=True)


def _selected(seen: Equation, first: Weights) -> Weights:
  """Entries that are dropped at random; or one of two cases, if it is known which."""
  which, *cases = seen.inputs
  if isinstance(which, Known) and isinstance(cases[int(which.value)], Weights):
    return cases[int(which.value)]
  if isinstance(which, Data) and which.kind == "mask" and Known(0.0) in cases:
    keep = which.keep if cases[1] is first else 1 - which.keep
    return dataclasses.replace(first, factor=first.factor * math.sqrt(keep))
  return _unknown(first)


def _power(seen: Equation, first: Weights) -> Weights:
  power = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5}.get(seen.name)
  if seen.name == "integer_pow":
    power = float(seen.parameters["y"])
  elif seen.name == "pow" and isinstance(seen.inputs[1], Known):
    power = seen.inputs[1].value
  if power is None:
    return _unknown(first)
  if first.form == "number" and first.factor > 0:
    return dataclasses.replace(first, factor=first.factor**power, degree=first.degree * power)
  if power == 2 and first.form == "random" and not first.is_unknown:
    return _squares(first)
  return _unknown(first)


def _squares(weights: Weights) -> Weights:
  return dataclasses.replace(
    weights, form="squares", factor=weights.factor**2, degree=2 * weights.degree
  )


def _product(seen: Equation, left: Value, right: Value) -> Weights:
  """Parameters times or over a constant, a statistic of them, a gain, or other parameters."""
  sign = 1 if seen.name == "mul" else -1
  if isinstance(left, Weights) and isinstance(right, Weights):
    if left is right and sign == 1 and left.form == "random" and not left.is_unknown:
      return _squares(left)
    if right.initial is not None or left.initial is not None:
      main, gain = (left, right) if right.initial is not None else (right, left)
      if main is right and sign == -1:
        return _inverse(main, abs(gain.initial))
      number = abs(gain.initial)
      return _times(main, number if sign == 1 else 1 / number if number else math.nan)
    if right.form == "number" and left.size < right.size and left.initial is None:
      return _gained(right, left, 0.0)
    if right.form == "number":
      return _times(left, right.factor**sign, sign * right.degree, right)
    if left.form == "number" and sign == 1:
      return _times(right, left.factor, left.degree, left)
    main, gain = (left, right) if left.size >= right.size or sign == -1 else (right, left)
    if gain.size < main.size and (main.degree == 0 or not gain.certain):
      return _gained(main, gain, 1.0)
    return _unknown(main)
  if isinstance(left, Weights):
    size = _size(right)
    return _unknown(left) if not size and sign == -1 else _times(left, _power_of(size, sign))
  size = _size(left)
  return _times(right, size) if sign == 1 else _inverse(right, size)


def _gained(weights: Weights, gain: Weights, degree: float) -> Weights:
  """With a gain of its own, which weight normalisation starts where the weights stay as they were.

  Args:
    weights: what was divided by its length, or the length itself, which the gain is divided by.
    gain: the gain; named if it is given by its shape alone.
    degree: of the result, 1 for weights and 0 for a number.
  """
  gains = weights.gains | (frozenset() if gain.certain else gain.leaves)
  return dataclasses.replace(weights, factor=1.0, degree=degree, gains=gains)


def _power_of(size: float | None, sign: int) -> float | None:
  return size if sign == 1 or size is None else 1 / size


def _times(weights: Weights, factor: float | None, degree: float = 0.0, other=None) -> Weights:
  if factor is None or not math.isfinite(factor):
    return _unknown(weights)
  is_unknown = weights.is_unknown or (other is not None and other.is_unknown)
  return dataclasses.replace(
    weights, factor=weights.factor * factor, degree=weights.degree + degree, is_unknown=is_unknown
  )


def _inverse(weights: Weights, number: float | None) -> Weights:
  """A number over a statistic."""
  if weights.form != "number" or number is None or not weights.factor:
    return _unknown(weights)
  return dataclasses.replace(weights, factor=number / weights.factor, degree=-weights.degree)


def _sum(seen: Equation, left: Value, right: Value) -> Weights:
  """Random parameters added up; their average taken away; an epsilon added."""
  if not (isinstance(left, Weights) and isinstance(right, Weights)):
    main, other = (left, right) if isinstance(left, Weights) else (right, left)
    size = _size(other)
    if size == 0 or (main.form == "number" and size is not None and size <= _FAINT):
      return main
    return _unknown(main)
  for main, other in ((left, right), (right, left)):
    if other.initial == 0.0:
      return main
    if main.form == "random" and other.form == "mean" and main.leaves == other.leaves:
      return dataclasses.replace(main, standardised=True)
  same = left.form == right.form and left.degree == right.degree
  if not same or left.is_unknown or right.is_unknown or left.initial or right.initial:
    return _unknown(left if left.is_unknown else right)
  if left.form == "number":  # a variance, or norms that are added up
    sign = -1 if seen.name == "sub" else 1
    return dataclasses.replace(left, factor=left.factor + sign * right.factor)
  if left.leaves & right.leaves:
    return _unknown(left)
  return dataclasses.replace(left, factor=math.hypot(left.factor, right.factor))


def _size(value: Value) -> float | None:
  """Root mean square of a constant's entries: what it does to the size of weights."""
  if isinstance(value, Known):
    return abs(value.value) if math.isfinite(value.value) else None
  if isinstance(value, Data) and value.kind == "mask":
    return abs(value.scale) * math.sqrt(value.keep)
  if isinstance(value, Data) and value.array is not None and np.isrealobj(value.array):
    return float(np.sqrt(np.mean(value.array.astype(np.float64) ** 2)))
  return None


def reduced(weights: Weights, count: int | None) -> Weights:
  """A sum over axes of parameters, or a maximum.

  Args:
    weights: what is summed.
    count: number of entries that are added; None for a maximum.
  """
  bare = dataclasses.replace(weights, array=None)
  if count is None:
    initial = weights.initial
    return dataclasses.replace(_unknown(bare), initial=initial)
  initial = None if weights.initial is None else weights.initial * count
  if weights.form in ("squares", "number"):
    return dataclasses.replace(bare, form="number", factor=weights.factor * count, initial=initial)
  factor = weights.factor * math.sqrt(count)
  return dataclasses.replace(bare, form="mean", factor=factor, initial=initial)


def joined(seen: Equation) -> list[Value]:
  """Parameters that are padded, indexed or put side by side; without any, what is left."""
  weights = [value for value in seen.inputs if isinstance(value, Weights)]
  sizes = {(v.form, v.factor, v.degree) for v in weights}
  plain = all(isinstance(value, (Weights, Data)) or value == Known(0.0) for value in seen.inputs)
  if len(sizes) != 1 or not plain:
    return without_signal(seen)
  value = dataclasses.replace(
    weights[0],
    leaves=frozenset().union(*(v.leaves for v in weights)),
    gains=frozenset().union(*(v.gains for v in weights)),
    initial=weights[0].initial if len({v.initial for v in weights}) == 1 else None,
    certain=all(v.certain for v in weights),
    size=sum(v.size for v in weights),
    is_unknown=any(v.is_unknown for v in weights),
    array=None,
  )
  return [value for _ in seen.out_shapes]


def multiplied(left: Weights, right: Weights) -> Weights:
  """A matrix product of parameters acts like one of them behind the other."""
  leaves = left.leaves | right.leaves
  both = dataclasses.replace(
    left,
    leaves=leaves,
    certain=left.certain and right.certain,
    initial=0.0 if 0.0 in (left.initial, right.initial) else None,
    factor=left.factor * right.factor,
    size=left.size + right.size,
    array=None,
    gains=left.gains | right.gains,
    is_unknown=left.is_unknown or right.is_unknown,
  )
  if left.leaves & right.leaves:
    return _unknown(both)
  if left.form != "random" or right.form != "random" or (left.degree, right.degree) != (1.0, 1.0):
    return _unknown(both)
  return both


def drift(weights: Weights, inputs: int) -> float:
  """By what weights are larger than a parameter is, where they act on that many inputs."""
  return weights.factor * float(inputs) ** ((1 - weights.degree) / 2)
