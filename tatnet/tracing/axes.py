"""What each axis of a signal is: "b" batch, "f" features, "s" space or anything else."""

import math

Axes = tuple[str, ...]


def of_input(rank: int, batch_axis: int | None) -> Axes:
  """Axes of an input array: the last holds features, one may be the batch."""
  axes = ["s"] * rank
  if rank:
    axes[-1] = "f"
  if batch_axis is not None and rank:
    axes[batch_axis] = "b"
  return tuple(axes)


def merged(labels: set[str]) -> str:
  """The label of an axis made of several."""
  return next((label for label in "bf" if label in labels), "s")


def reshaped(axes: Axes, old: tuple[int, ...], new: tuple[int, ...]) -> Axes:
  """Axes after a reshape: matching groups of axes share their labels."""
  result = ["s"] * len(new)
  i = j = 0
  while i < len(old) and j < len(new):
    start_i, start_j = i, j
    size_old, size_new = old[i], new[j]
    i, j = i + 1, j + 1
    while size_old != size_new:
      if size_old < size_new:
        size_old, i = size_old * old[i], i + 1
      else:
        size_new, j = size_new * new[j], j + 1
    _label_group(axes[start_i:i], old[start_i:i], result, start_j, j, new)
  return tuple(result)


def _label_group(labels, sizes, result, start, stop, new) -> None:
  present = {
    label for label, size in zip(labels, sizes, strict=True) if size > 1 or len(sizes) == 1
  }
  wide = [k for k in range(start, stop) if new[k] > 1] or list(range(start, stop))
  if present == {"f"}:
    for k in wide:
      result[k] = "f"
    return
  if "f" in present:
    result[wide[-1]] = "f"
  if "b" in present:
    result[wide[0]] = "b"


def broadcast(axes: Axes, rank: int, positions: tuple[int, ...]) -> Axes:
  """Axes after broadcast_in_dim."""
  result = ["s"] * rank
  for axis, position in zip(axes, positions, strict=True):
    result[position] = axis
  return tuple(result)


def reduced(axes: Axes, over: tuple[int, ...]) -> Axes:
  """Axes that a reduction leaves."""
  return tuple(axis for i, axis in enumerate(axes) if i not in over)


def features(axes: Axes, shape: tuple[int, ...]) -> int:
  """Number of features of an array."""
  return math.prod(size for size, label in zip(shape, axes, strict=True) if label == "f")


def count(shape: tuple[int, ...], over: tuple[int, ...]) -> int:
  """Number of entries that a reduction adds."""
  return math.prod(shape[i] for i in over)
