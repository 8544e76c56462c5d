"""Decoded batches of ImageNet-like data, made by Grain in parallel."""

import dataclasses
import logging
import os
from collections.abc import Iterator

import numpy as np

from tatnet.training.data.batches import InOrder, Shuffled
from tatnet.training.data.images import ImageSource
from tatnet.training.data.pieces import Pieces, SharedBatches

_logger = logging.getLogger(__name__)
_BATCHES_AHEAD = 2


def image_batches(
  source: ImageSource,
  batch_size: int,
  seed: int,
  *,
  train: bool,
  num_workers: int,
  start_step: int = 0,
  shard: tuple[int, int] = (0, 1),
  size: int = 224,
) -> "ImageBatches":
  """Batches of decoded, cropped images.

  In training, shuffled epochs without end, of random crops, half of them mirrored. In
  evaluation, the central crop of every example exactly once, in the order of the
  source. A batch follows from the seed and its number alone: it is the same for any
  number of workers, after any resumption, and the parts of several processes make the
  batch of one.

  An unreadable image is replaced by the next readable example in training and masked
  in evaluation. It is logged once as a warning, and `unreadable` of the result has all
  that were met.

  Args:
    source: of encoded images; `TfdsImages`, `ImageFolder`, or any class with the same
      ``__len__`` and ``__getitem__``, picklable where there are workers.
    batch_size: examples in a batch, those of all processes together.
    seed: of the order and of the augmentation.
    train: see above.
    num_workers: decoding processes. 0 decodes in threads of this process, one per core:
      no start-up and the least work per image, as OpenCV decodes without Python's lock.
      Processes cost some seconds to start and a copy of each image, and are for
      machines with more cores than one Python process can feed;
      ``benchmarks/input_pipeline.py`` compares the two. They are started by "spawn": a
      script that uses them needs ``if __name__ == "__main__":``.
    start_step: number of the first batch. Skipping costs nothing.
    shard: this process's number and the number of processes that share each batch.
    size: height and width of the images. In evaluation the shorter side is resized to
      8/7 of it first.

  Returns:
    An iterator of dictionaries with "image", uint8 ``[batch_size / processes, size, size,
    3]``, "label", int32 ``[batch_size / processes]``, and in evaluation "mask", bool, False
    where a row is padding and must not count. Close it, or use it in a ``with`` statement.

  Raises:
    ValueError: sizes that do not fit together, as for `Shuffled`.
    UnreadableImage: while iterating, if 100 examples in a row cannot be decoded.

  Example:
    >>> import pathlib, tempfile
    >>> import PIL.Image
    >>> from tatnet.training import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for name in ("cat", "dog"):
    ...     path = pathlib.Path(folder, name)
    ...     path.mkdir()
    ...     PIL.Image.new("RGB", (40, 30)).save(path / "1.png")
    ...   source = data.ImageFolder(folder)
    ...   with data.image_batches(source, 2, 0, train=True, num_workers=0, size=16) as batches:
    ...     batch = next(batches)
    >>> batch["image"].shape, sorted(batch["label"].tolist())
    ((2, 16, 16, 3), [0, 1])
  """
  if start_step < 0 or num_workers < 0 or size < 1:
    raise ValueError(
      f"start_step={start_step}, num_workers={num_workers}, size={size}; expected numbers from 0,"
      " and a size from 1."
    )
  if train:
    order = Shuffled(len(source), batch_size, seed, shard)
  else:
    order = InOrder(len(source), batch_size, shard)
  return ImageBatches(Pieces(source, order, start_step, size), num_workers)


class ImageBatches(Iterator[dict[str, np.ndarray]]):
  """The iterator that `image_batches` returns.

  Args:
    pieces: of batches, by number.
    num_workers: processes that decode; 0 for threads of this one.

  Attributes:
    step: number of the next batch, which is all that a checkpoint needs of it.
  """

  def __init__(self, pieces: Pieces, num_workers: int):
    import grain

    if not num_workers:
      pieces = dataclasses.replace(pieces, shared=SharedBatches(pieces.per_batch))
    self.step = pieces.start_step
    self._pieces = pieces
    self._trains = isinstance(pieces.order, Shuffled)
    self._unreadable: set[int] = set()
    self._iterator = iter(_in_parallel(grain.MapDataset.source(pieces), pieces, num_workers))

  def __next__(self) -> dict[str, np.ndarray]:
    pieces = [next(self._iterator) for _ in range(self._pieces.per_batch)]
    self._report(np.concatenate([piece.unreadable for piece in pieces]))
    self.step += 1
    batch = {
      "image": _joined([piece.images for piece in pieces]),
      "label": np.concatenate([piece.labels for piece in pieces]),
    }
    if not self._trains:
      batch["mask"] = np.concatenate([piece.mask for piece in pieces])
    return batch

  @property
  def unreadable(self) -> tuple[int, ...]:
    """Numbers of the examples met so far that could not be decoded."""
    return tuple(sorted(self._unreadable))

  def close(self) -> None:
    """Ends the workers. May be called again; the iterator may not."""
    self._iterator.close()

  def __enter__(self) -> "ImageBatches":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _report(self, unreadable: np.ndarray) -> None:
    describe = getattr(self._pieces.source, "describe", "example {}".format)
    for index in sorted(set(unreadable.tolist()) - self._unreadable):
      self._unreadable.add(index)
      _logger.warning(
        "Unreadable image, %s: %s",
        "replaced by the next" if self._trains else "not counted",
        describe(index),
      )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
  """Parts one after the other; without a copy where they are all the rows of one array."""
  whole = parts[0].base
  shape = (sum(map(len, parts)), *parts[0].shape[1:])
  if getattr(whole, "shape", None) == shape and all(part.base is whole for part in parts):
    return whole
  return np.concatenate(parts)


def _in_parallel(dataset, pieces: Pieces, num_workers: int):
  import grain

  ahead = _BATCHES_AHEAD * pieces.per_batch
  if not num_workers:
    threads = max(1, min(os.cpu_count() or 1, ahead))
    return dataset.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=ahead))
  _let_grain_read_its_flags()
  each = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  return each.mp_prefetch(grain.MultiprocessingOptions(num_workers, -(-ahead // num_workers)))


def _let_grain_read_its_flags() -> None:
  """Grain starts workers only after absl has parsed a command line, which few programs do."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # parsing later is still possible
