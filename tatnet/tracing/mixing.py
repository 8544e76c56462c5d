"""Constant matrices: what they do to q and to cosines, where that is known."""

import math

import numpy as np

from tatnet.network.builders import identity, mixing
from tatnet.tracing.axes import Axes
from tatnet.tracing.nodes import Node
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.signals import averaged, linear, without_softmax
from tatnet.tracing.values import Signal, Value

_CLOSE = 1e-5
_SOME = 64  # rows of attention that are looked at
_ROUGH = 1e-3
_WRITTEN = 2e-6
_FEWEST = 8  # directions, below which q of a random signal is far from its mean


def by_constants(
  reader: Reader, seen: Equation, signal: Signal, matrix: np.ndarray | None, label: str, axes: Axes
) -> Value:
  """A signal of which entries are summed with constant weights.

  Args:
    reader: the reader.
    seen: the product.
    signal: the signal.
    matrix: the weights, shape [inputs, outputs]; None where they are not known.
    label: what is summed over: features ("f") or locations.
    axes: of the result.
  """
  if signal.softmax:
    return Signal(without_softmax(reader, signal, seen).node, 1.0, axes)
  # Products with one matrix are one signal, wherever they are written.
  which = seen.place if matrix is None else _digest(matrix)
  layout = (*signal.layout, ("mixed", which))
  if matrix is not None and not np.any(matrix):
    return Signal(signal.node, 0.0, axes, layout=layout)
  if signal.node.is_raw:  # preprocessing
    node = reader.network.passed("mixed", signal.node, layout, seen.place)
    return Signal(node, 1.0, axes)
  signal = linear(reader, signal, seen)
  if matrix is None:
    return _reported(reader, seen, signal, axes, "whose entries are not known while tracing")
  mix = _features if label == "f" else _locations
  return mix(reader, seen, Signal(signal.node, signal.scale, axes, layout=layout), matrix)


def _digest(matrix: np.ndarray) -> tuple[tuple[int, ...], int]:
  return matrix.shape, hash((np.round(matrix, 6) + 0.0).tobytes())


def _features(reader: Reader, seen: Equation, signal: Signal, matrix: np.ndarray) -> Value:
  """q of ``M^T x`` is ``x^T M M^T x / outputs``: known where M M^T is a multiple of 1, or x white."""
  inputs, outputs = matrix.shape
  gram = matrix @ matrix.T
  size = float(np.trace(gram)) / inputs
  if np.abs(gram - size * np.eye(inputs)).max() <= _CLOSE * size:
    # What all features share stays a constant only if none are combined.
    only_moves = np.all(
      np.count_nonzero(np.abs(matrix) > _CLOSE * np.abs(matrix).max(), axis=0) <= 1
    )
    same_sign = np.all(matrix >= 0) or np.all(matrix <= 0)
    mean = signal.node.mean if only_moves and same_sign else identity()
    return _mixed(reader, seen, signal, math.sqrt(size * inputs / outputs), mean=mean)
  spread = float(np.trace(gram)) ** 2 / float(np.sum(gram**2))
  columns = np.sum(matrix**2, axis=0)
  if signal.node.mean == identity() and signal.node.is_gaussian and spread >= _FEWEST:
    # Features that weights have made are independent: each adds its share.
    even = np.ptp(columns) <= 1e-2 * columns.mean()
    return _mixed(reader, seen, signal, math.sqrt(columns.mean()), even=bool(even))
  norms = np.sqrt(columns)
  return _reported(
    reader,
    seen,
    signal,
    signal.axes,
    f"of shape {matrix.shape}, whose columns have norms from {norms.min():.4g} to {norms.max():.4g}"
    f" and sums from {matrix.sum(0).min():.4g} to {matrix.sum(0).max():.4g}",
  )


def _locations(reader: Reader, seen: Equation, signal: Signal, matrix: np.ndarray) -> Value:
  """Each new location is a sum over old ones, whose kernel across locations is not known."""
  largest = np.abs(matrix).max()
  counts = np.count_nonzero(np.abs(matrix) > _CLOSE * largest, axis=0)
  sums = matrix.sum(axis=0)
  if np.all(counts == 1) and np.ptp(np.abs(sums)) <= _CLOSE * largest:
    return _mixed(reader, seen, signal, float(np.abs(sums[0])), mean=signal.node.mean)
  if np.all(matrix >= -_CLOSE * largest) and np.abs(sums - 1).max() <= 1e-3:
    size = round(float(1 / np.mean(np.sum(matrix**2, axis=0))), 1)
    average = averaged(reader, signal, max(size, 1.1), seen.place, signal.layout)
    if matrix.shape[0] == matrix.shape[1]:
      average.node.rows = matrix.T
    return average
  if (step := step_of(matrix.T)) is not None:
    return mixed(reader, seen, signal, step)
  norms = np.sqrt(np.sum(matrix**2, axis=0))
  return _reported(
    reader,
    seen,
    signal,
    signal.axes,
    f"that combines locations, with weights whose norms go from {norms.min():.4g} to"
    f" {norms.max():.4g} and whose sums from {sums.min():.4g} to {sums.max():.4g}: q becomes the"
    " square of the norm where locations have nothing in common, that of the sum where they are"
    " equal",
  )


def scaled_rows(
  reader: Reader, seen: Equation, signal: Signal, scale: float | np.ndarray
) -> Signal | None:
  """Averages over tokens behind the scale of each: attention that starts as planned, or None.

  Args:
    reader: the reader.
    seen: the multiplication.
    signal: what is multiplied.
    scale: a number, or an array of the shape of the result that only tokens tell apart.
  """
  rows = signal.node.rows
  if rows is None or not signal.is_linear:
    return None
  if np.ndim(scale):
    axes = [i for i, step in enumerate(scale.strides) if step and scale.shape[i] > 1]
    if len(axes) != 1 or scale.shape[axes[0]] != len(rows):
      return None
    scale = scale[tuple(slice(None) if i == axes[0] else 0 for i in range(scale.ndim))]
  step = step_of(signal.coefficient * np.reshape(scale, (-1, 1)) * rows)
  if step is None:
    return None
  (source,) = signal.node.sources
  return mixed(reader, seen, Signal(source, 1.0, signal.axes), step)


def step_of(matrix: np.ndarray) -> float | None:
  """The step of attention between two kernels of equal off-diagonals; None if it is no such.

  Of ``A ((1 - rho) 1 + rho 11') A'`` every row has q = 1, which says what rho is.

  Args:
    matrix: A, shape [tokens, tokens].
  """
  if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or np.any(matrix < -_CLOSE):
    return None
  some = np.unique(np.linspace(0, len(matrix) - 1, min(len(matrix), _SOME)).round().astype(int))
  rows = matrix[some].astype(np.float64)
  sums, squares = rows.sum(1), np.sum(rows**2, axis=1)
  products = sums[-1] ** 2 - squares[-1]
  if len(matrix) < 2 or products < _ROUGH:
    return None
  before = max(float((1 - squares[-1]) / products), 0.0)
  kernel = (1 - before) * rows @ rows.T + before * np.outer(sums, sums)
  others = kernel[~np.eye(len(some), dtype=bool)]
  if before >= 1 or np.abs(np.diag(kernel) - 1).max() > _ROUGH or np.ptp(others) > _ROUGH:
    return None
  step = float((others.mean() - before) / (1 - before))
  if not 0 < step < 1:
    return None
  # As it was written, if rounding to 32 bits is all that lies between.
  written = (float(f"{step:.{digits}g}") for digits in range(1, 5))
  return next((number for number in written if abs(number - step) < _WRITTEN), step)


def mixed(reader: Reader, seen: Equation, signal: Signal, step: float) -> Signal:
  """A signal behind attention that moves cosines by a step."""
  piece = mixing(float(f"{step:.12g}"), where=seen.place)
  if piece == identity():
    return signal
  node = reader.network.passed("mixing", signal.node, seen.place, seen.place, piece=piece)
  return Signal(node, signal.coefficient * node.corrected, signal.axes)


def _mixed(
  reader: Reader, seen: Equation, signal: Signal, factor: float, even: bool = True, **fields
) -> Signal:
  node: Node = reader.network.passed(
    "mixed", signal.node, (seen.place, signal.layout), seen.place, **fields
  )
  if not even:
    node.is_gaussian = False  # entries have different sizes, which only weights even out
  return Signal(node, signal.coefficient * factor * node.corrected, signal.axes)


def _reported(reader: Reader, seen: Equation, signal: Signal, axes: Axes, what: str) -> Signal:
  reader.findings.error(
    "constant matrix",
    seen.place,
    f"the signal is multiplied by a constant matrix {what}",
    "give weights as parameters, by trace_apply(apply, weights, inputs), where they are taken to be"
    " random; make a constant matrix orthogonal; let averages over locations have weights that add"
    " to 1, behind the last nonlinear layer.",
  )
  return Signal(reader.network.mended(signal.node, seen.place), 1.0, axes)
