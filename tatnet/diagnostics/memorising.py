"""Weights of residual blocks that move given points and leave all others alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Layers = dict[str, dict[str, np.ndarray]]
_UNIT = 1e-3  # norms of inputs in float32 or float16 may be off by this much


class NotSeparatedError(ValueError):
  """A point that no half-space separates from the others along its own direction."""


def construct(
  points: np.ndarray, classes: np.ndarray, num_classes: int, width: int, rng: np.random.Generator
) -> Layers:
  """Layers of the network that maps distinct points to their classes.

  Args:
    points: ``[n, d]``, distinct, of norm 1, in float64.
    classes: ``[n]``.
    num_classes: r.
    width: k.
    rng: for the projection and the classes' vectors.

  Returns:
    ``{layer: {"w": [inputs, outputs], "b": [outputs]}}`` in float64.

  Raises:
    NotSeparatedError: the random choices do not separate the points.
  """
  projection = _projection(points.shape[1], width, rng)
  centres = rng.standard_normal([num_classes, width])
  centres /= np.linalg.norm(centres, axis=1, keepdims=True)
  layers = {"projection": {"w": projection}}

  now = points @ projection
  start = 0
  for place, size in enumerate(block_sizes(len(points), width)):
    moved = slice(start, start + size)
    goals = centres[classes[moved]]
    block = _block(now[moved], goals - now[moved], now, start)
    layers[f"block_{place}_in"], layers[f"block_{place}_out"] = block
    now[moved] = goals
    start += size

  shortcut = np.zeros([num_classes, num_classes])
  kept = min(num_classes, width)
  shortcut[:, :kept] = centres[:, :kept]
  block = _block(centres, np.eye(num_classes) - shortcut, centres, 0)
  layers["output_in"], layers["output_out"] = block
  return layers


def block_sizes(num_points: int, width: int) -> Iterator[int]:
  """Numbers of points that the blocks move: as many as the width, the rest in the last."""
  return (min(width, num_points - start) for start in range(0, num_points, width))


def _projection(inputs, outputs, rng):
  """An isometry ``[inputs, outputs]`` if there is room for one, else random with variance 1/k."""
  normals = rng.standard_normal([outputs, inputs])
  if outputs >= inputs:
    return np.linalg.qr(normals)[0].T
  return normals.T / np.sqrt(outputs)


def _block(moved, shifts, points, start):
  """A block that adds `shifts` at the points ``points[start:start + len(moved)]``, 0 at others."""
  products = moved @ points.T
  own = np.arange(len(moved)), start + np.arange(len(moved))
  squares = products[own]
  products[own] = -np.inf
  others = products.max(1)
  others[np.isneginf(others)] = 0  # a single point
  worst = np.argmin(squares - others)
  if not squares[worst] > others[worst]:
    raise NotSeparatedError(
      f"a projected point has the inner product {others[worst]:.6g} with another one and"
      f" {squares[worst]:.6g} with itself"
    )
  thresholds = (squares + others) / 2
  outer = shifts / (squares - thresholds)[:, None]
  return {"w": moved.T.copy(), "b": -thresholds}, {"w": outer}


def checked(
  inputs: Any, labels: Any, num_classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
  """Inputs in float64, labels, and the number of classes; raises if they do not fit."""
  points, classes = np.asarray(inputs, np.float64), np.asarray(labels)
  if points.ndim != 2 or not points.size or classes.shape != points.shape[:1]:
    raise ValueError(
      f"expressive_network got inputs of shape {points.shape} and labels of shape {classes.shape};"
      " expected [n, d] and [n]. Flatten images to vectors."
    )
  if not np.issubdtype(classes.dtype, np.integer):
    raise TypeError(
      f"expressive_network got labels of dtype {classes.dtype}; expected integers. Take the argmax of"
      " one-hot labels."
    )
  if num_classes is None:
    num_classes = int(classes.max()) + 1
  if classes.min() < 0 or classes.max() >= num_classes:
    raise ValueError(
      f"expressive_network got labels from {classes.min()} to {classes.max()} for {num_classes}"
      f" classes; expected 0 to {num_classes - 1}."
    )
  norms = np.linalg.norm(points, axis=1)
  if not (np.abs(norms - 1) < _UNIT).all():
    raise ValueError(
      f"expressive_network got inputs with norms from {norms.min():.6g} to {norms.max():.6g};"
      " expected inputs of norm 1. Divide them by np.linalg.norm(inputs, axis=1, keepdims=True); add"
      " a constant feature first where their norms matter."
    )
  return points, classes, num_classes


def check_coinciding(unique: np.ndarray, points: np.ndarray, classes: np.ndarray) -> None:
  """Raises ValueError if equal inputs have different labels."""
  if len(unique) == len(points):
    return
  _, places = np.unique(points, axis=0, return_inverse=True)
  places = places.ravel()
  lowest, highest = np.full(len(unique), classes.max()), np.full(len(unique), classes.min())
  np.minimum.at(lowest, places, classes)
  np.maximum.at(highest, places, classes)
  conflicts = np.flatnonzero(lowest != highest)
  if conflicts.size:
    examples = np.flatnonzero(places == conflicts[0])
    raise ValueError(
      f"expressive_network got {conflicts.size} inputs more than once with different labels, such as"
      f" examples {examples[:4].tolist()} with labels {classes[examples[:4]].tolist()}; expected one"
      " label for an input, as no function gives two. Remove the duplicates."
    )


def closest_pair(points: np.ndarray) -> str:
  """A sentence on the two points that are closest."""
  if len(points) < 2:
    return ""
  products = points @ points.T
  np.fill_diagonal(products, -np.inf)
  i, j = np.unravel_index(np.argmax(products), products.shape)
  distance = np.linalg.norm(points[i] - points[j])
  return f"The closest two are {distance:.3g} apart."
