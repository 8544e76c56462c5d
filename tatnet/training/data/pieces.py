"""Pieces of batches, each made from its number alone: the unit of work of one worker."""

import dataclasses
import threading
from typing import NamedTuple

import numpy as np

from tatnet.training.data.batches import InOrder, Shuffled
from tatnet.training.data.decode import (
  NUMBERS_OF_A_CROP,
  UnreadableImage,
  center_crop,
  decode_image,
  random_resized_crop_flip,
)
from tatnet.training.data.images import ImageSource
from tatnet.training.data.prepared import DamagedData

# Large enough that a worker's overhead is lost in its decoding, small enough that the
# workers share a batch and that few bytes are in flight: 32 images of 224x224 are 5 MB,
# and Docker gives 64 MB to what processes share.
_PIECE = 32
_MOST_UNREADABLE = 100
_RESIZE_TO = 256 / 224


class Piece(NamedTuple):
  """Consecutive rows of a batch.

  Attributes:
    images: uint8 ``[rows, size, size, 3]``.
    labels: int32 ``[rows]``.
    mask: bool ``[rows]``, whether a row counts in an evaluation.
    unreadable: int64, the numbers of examples that could not be decoded.
  """

  images: np.ndarray
  labels: np.ndarray
  mask: np.ndarray
  unreadable: np.ndarray


class _Drawn:
  """Random numbers that were drawn ahead, given out one by one."""

  def __init__(self, numbers: list[float]):
    self.random = iter(numbers).__next__


class SharedBatches:
  """Arrays of whole batches that threads fill together, so that nobody has to join them.

  Attributes:
    per_batch: number of pieces that a batch is made of; each asks for its rows once.
  """

  def __init__(self, per_batch: int):
    self.per_batch = per_batch
    self._lock = threading.Lock()
    self._unfinished: dict[int, tuple[np.ndarray, int]] = {}

  def rows(self, step: int, shape: tuple[int, ...], rows: slice) -> np.ndarray:
    """The rows of a piece in the array of its batch."""
    with self._lock:
      blank = np.empty(shape, np.uint8), self.per_batch
      array, missing = self._unfinished.pop(step, blank)
      if missing > 1:
        self._unfinished[step] = (array, missing - 1)
    return array[rows]


@dataclasses.dataclass(frozen=True)
class Pieces:
  """All pieces from `start_step` on; picklable, without state, cheap until indexed.

  Attributes:
    source: of encoded images.
    order: which examples are in which batch. Shuffled ones are cropped at random, for
      ever; those in order are cropped in the middle, once.
    start_step: number of the first batch.
    size: height and width of the images.
    shared: where the pieces of a batch are put side by side; None: each has an array of
      its own, as in processes.
  """

  source: ImageSource
  order: Shuffled | InOrder
  start_step: int
  size: int
  shared: SharedBatches | None = None

  @property
  def per_batch(self) -> int:
    """Number of pieces that make a batch."""
    return -(-self.order.local_size // _PIECE)

  def __len__(self) -> int:
    if isinstance(self.order, Shuffled):
      return 2**48  # without end, but a number that Grain can slice
    return max(self.order.num_steps - self.start_step, 0) * self.per_batch

  def __getitem__(self, index: int) -> Piece:
    step, piece = divmod(index, self.per_batch)
    step += self.start_step
    rows = slice(piece * _PIECE, min((piece + 1) * _PIECE, self.order.local_size))
    if isinstance(self.order, Shuffled):
      return self._training(self.order, step, rows)
    return self._evaluation(self.order, step, rows)

  def _training(self, order: Shuffled, step: int, rows: slice) -> Piece:
    indices = order.indices(step)[rows]
    images = self._blank(step, rows)
    labels, unreadable = np.zeros(len(indices), np.int32), []
    numbers = order.numbers(step, NUMBERS_OF_A_CROP)[rows].tolist()
    for row, (index, drawn) in enumerate(zip(indices.tolist(), numbers, strict=True)):
      image, labels[row] = self._next_readable(index, unreadable)
      images[row] = random_resized_crop_flip(_Drawn(drawn), image, self.size)
    return Piece(images, labels, np.ones(len(indices), bool), np.array(unreadable, np.int64))

  def _evaluation(self, order: InOrder, step: int, rows: slice) -> Piece:
    batch = order.batch(step)
    indices, mask = batch.indices[rows], batch.mask[rows]
    images = self._blank(step, rows)
    images[...] = 0  # what is padding, or cannot be read
    labels, unreadable = np.zeros(len(indices), np.int32), []
    for row in np.flatnonzero(mask):
      index = int(indices[row])
      try:
        image, labels[row] = self._decode(index)
        images[row] = center_crop(image, self.size, round(self.size * _RESIZE_TO))
      except UnreadableImage:  # another in its place would count twice
        mask[row] = False
        unreadable.append(index)
    return Piece(images, labels, mask, np.array(unreadable, np.int64))

  def _blank(self, step: int, rows: slice) -> np.ndarray:
    image = (self.size, self.size, 3)
    if self.shared is None:
      return np.empty((rows.stop - rows.start, *image), np.uint8)
    return self.shared.rows(step, (self.order.local_size, *image), rows)

  def _decode(self, index: int) -> tuple[np.ndarray, int]:
    encoded, label = self.source[index]
    classes = getattr(self.source, "num_classes", None)
    if classes is not None and not 0 <= label < classes:
      where = getattr(self.source, "describe", "example {}".format)(index)
      raise DamagedData(f"{where} has the label {label}; expected one of 0 to {classes - 1}.")
    return decode_image(encoded), label

  def _next_readable(self, index: int, unreadable: list[int]) -> tuple[np.ndarray, int]:
    for attempt in range(min(_MOST_UNREADABLE, self.order.num_examples)):
      candidate = (index + attempt) % self.order.num_examples
      try:
        return self._decode(candidate)
      except UnreadableImage:
        unreadable.append(candidate)
    raise UnreadableImage(
      f"Of the examples from number {index}, none of {attempt + 1} in a row is a readable JPEG or"
      " PNG image. Check that the source gives the bytes of the files."
    )
