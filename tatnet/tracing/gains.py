"""Parameters and tables that meet a signal entry by entry: biases, gains, slopes, positions."""

import numpy as np

from tatnet.tracing import axes as axis_labels
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.values import Data, Known, Signal, Statistic, Value, Weights


def initial(value: Value, seen: Equation) -> Value:
  """A parameter beside a signal acts by its initial value; a neutral one where that is not known."""
  if not isinstance(value, Weights):
    return value
  return Known(_neutral(seen) if value.initial is None else value.initial)


def _neutral(seen: Equation) -> float:
  return 1.0 if seen.name in ("mul", "div") else 0.0


def is_unknown(value: Value, seen: Equation) -> bool:
  """Whether it is a parameter that does not start, or may not start, at one neutral number."""
  if not isinstance(value, Weights) or value.initial is not None:
    return False
  return value.certain or not _starts_neutral(value, seen)


def is_gain(value: Value, seen: Equation) -> bool:
  """Whether it is the gain of a normalisation, given by its shape alone."""
  is_guess = isinstance(value, Weights) and not value.certain and value.initial is None
  return is_guess and seen.name in ("mul", "div")


def report_unknown(reader: Reader, value: Weights, seen: Equation) -> None:
  what = (
    f"{min(value.leaves)} is {_VERB.get(seen.name, 'combined with')} a signal, entry by entry, and"
  )
  if value.certain:
    reader.findings.error(
      "parameter without a uniform initial value",
      seen.place,
      f"{what} does not start at one number",
      f"let it start at {_neutral(seen):g} (biases at 0, gains at 1).",
    )
    return
  reader.findings.error(
    "parameter without a known initial value",
    seen.place,
    f"{what} is given by its shape alone, which does not say where it starts",
    "give the parameters as arrays, as the model's init makes them: how a learned gain, slope or"
    " blend starts decides what the network is.",
  )


def _starts_neutral(value: Weights, seen: Equation) -> bool:
  """Whether it is a layer's bias, or the gain or offset of a normalisation."""
  others = [v for v in seen.inputs if v is not value]
  if any(isinstance(other, Statistic) for other in others):
    return True
  signals = [other for other in others if isinstance(other, Signal)]
  if len(signals) != 1 or not signals[0].is_linear:
    return False
  (signal,) = signals
  if signal.node.kind == "normalised" or signal.node.is_raw or signal.node.is_mended:
    return True
  shape = next(s for v, s in zip(seen.inputs, seen.in_shapes, strict=True) if v is signal)
  is_bias = signal.node.kind == "affine" and seen.name in ("add", "add_any")
  return is_bias and value.size <= max(axis_labels.features(signal.axes, shape), *shape[-1:])


_VERB = {"mul": "multiplied by", "div": "divided by", "add": "added to", "sub": "subtracted from"}


def is_table(value: Value, seen: Equation) -> bool:
  """Whether it is a row for each location, as positions are, added where no layer stands before."""
  if seen.name not in ("add", "add_any") or len(seen.inputs) != 2:
    return False
  other = seen.inputs[1 - next(i for i, v in enumerate(seen.inputs) if v is value)]
  if not isinstance(other, Signal) or other.node.is_raw or other.node.has_layers:
    return False
  shape = seen.out_shapes[0]
  row = max(axis_labels.features(other.axes, shape), *shape[-1:])
  if isinstance(value, Weights):
    return value.initial is None and value.size > row
  if not isinstance(value, Data) or value.kind != "array" or value.array is None:
    return False
  is_whole = value.array.ndim > 1 and value.array.size % row == 0
  return is_whole and bool(np.ptp(value.array.reshape(-1, row), axis=0).any())


def as_start(reader: Reader, value: Value, seen: Equation) -> Value:
  """A table as a signal that enters the network; rows of parameters are taken to have q = 1."""
  if not is_table(value, seen):
    return value
  other = next(v for v in seen.inputs if isinstance(v, Signal))
  array, name, factor = value.array, seen.place, 1.0
  if isinstance(value, Weights):
    name, factor = min(value.leaves), value.factor
  size = 1.0 if array is None else float(np.sqrt(np.mean(array.astype(np.float64) ** 2)))
  node = reader.network.input(f"the table {name}")
  return Signal(node, size * factor, other.axes, layout=other.layout)
