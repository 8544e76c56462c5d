"""Equations of constants alone: evaluated, if they are small, axes along which they repeat once."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tatnet.tracing.expressions import ELEMENTWISE

_LARGEST = 1 << 20
_POINTWISE = ELEMENTWISE | {"convert_element_type", "stop_gradient", "copy"}
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or")


def evaluated(equation: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
  """Results of an equation; None if they are large, or cannot be computed here.

  Masks and biases of attention are one table for all examples and heads. Such arrays are
  views, with a stride of 0 along the axes on which they repeat; so are the results.

  Args:
    equation: of a jaxpr, without an inner one.
    arrays: its operands.
  """
  name, parameters = equation.primitive.name, equation.params
  shapes = [tuple(getattr(v.aval, "shape", ())) for v in equation.outvars]
  if name == "transpose":
    return [arrays[0].transpose(parameters["permutation"])]
  if name == "broadcast_in_dim":
    return [_broadcast(arrays[0], shapes[0], parameters["broadcast_dimensions"])]
  repeated: tuple[int, ...] = ()
  wide: tuple[int, ...] = ()
  if name in _POINTWISE or name in _REDUCTIONS:
    wide = np.broadcast_shapes(*(array.shape for array in arrays))
    arrays = [np.broadcast_to(array, wide) if array.ndim else array for array in arrays]
    repeated = _repeated(arrays)
  kept = parameters.get("axes", ()) if name in _REDUCTIONS else ()
  repeated = tuple(axis for axis in repeated if axis not in kept)
  small = [_once(array, repeated) for array in arrays]
  share = math.prod(wide[axis] for axis in repeated)
  sizes = [*(array.size for array in small), *(math.prod(shape) // share for shape in shapes)]
  if max(sizes, default=0) > _LARGEST:
    return None
  try:
    with jax.enable_x64(True), warnings.catch_warnings():
      warnings.simplefilter("ignore")
      found = equation.primitive.bind(*small, **parameters)
  except Exception:  # it needs a mesh, a backend or something else that is not here
    return None
  found = found if equation.primitive.multiple_results else [found]
  if not repeated:
    return list(found)
  return [np.broadcast_to(np.asarray(a), shape) for a, shape in zip(found, shapes, strict=True)]


def _repeated(arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
  """Axes on which all arrays repeat; numbers do on all."""
  wide = [array for array in arrays if array.ndim]
  return tuple(
    axis
    for axis, size in enumerate(wide[0].shape if wide else ())
    if size > 1 and all(array.strides[axis] == 0 for array in wide)
  )


def _once(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
  if not array.ndim:
    return array
  return array[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(array.ndim))]


def _broadcast(array: np.ndarray, shape: tuple[int, ...], places: Sequence[int]) -> np.ndarray:
  index = tuple(slice(None) if axis in places else None for axis in range(len(shape)))
  return np.broadcast_to(array[index], shape)
