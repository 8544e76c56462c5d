"""Data sets that fit in memory, as arrays."""

import concurrent.futures
import pathlib

import numpy as np

from tatnet.training.data.decode import UnreadableImage, decode_image
from tatnet.training.data.prepared import DamagedData, PreparedRecords, open_prepared

_CHANNELS = {"mnist": 1, "cifar10": 3, "cifar100": 3}
_NUM_TRAINING_DIGITS = 1437
_RECORDS_AT_ONCE = 1000

ARRAY_DATA = ("digits", *_CHANNELS)


def load_arrays(
  name: str, split: str, data_dir: str | pathlib.Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """All images and labels of a small data set.

  Args:
    name: "digits" (the 8x8 digits that come with scikit-learn), or "mnist", "cifar10",
      "cifar100" as TFDS prepares them in the ArrayRecord format.
    split: "train" or "test", or what TFDS makes of them: "train[:90%]". The digits have
      no official split; theirs is 1437 and 360 images, the same on every machine.
    data_dir: the folder that holds the folder `name`; None for TFDS's own. The digits
      need none.

  Returns:
    uint8 images ``[n, height, width, channels]`` and int32 labels ``[n]``, in the order
    of the files.

  Raises:
    DataNotPrepared: the folder is missing; the message has the command that makes it.
    DamagedData: a file, a record or an image is damaged; the message says which.
    ValueError: an unknown name or split.

  Example:
    >>> from tatnet.training import data
    >>> images, labels = data.load_arrays("digits", "train")
    >>> images.shape, images.dtype, labels.dtype
    ((1437, 8, 8, 1), dtype('uint8'), dtype('int32'))
  """
  if name == "digits":
    return _digits(split)
  if name not in _CHANNELS:
    raise ValueError(f"name={name!r}; expected one of {', '.join(map(repr, ARRAY_DATA))}.")
  return _decode_all(open_prepared(name, split, data_dir), _CHANNELS[name])


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
  if split not in ("train", "test"):
    raise ValueError(f"split={split!r}; the digits have 'train' and 'test'.")
  from sklearn.datasets import load_digits

  bunch = load_digits()
  images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
  order = np.random.Generator(np.random.Philox(key=0)).permutation(len(images))
  parts = {"train": order[:_NUM_TRAINING_DIGITS], "test": order[_NUM_TRAINING_DIGITS:]}
  return images[parts[split]], bunch.target[parts[split]].astype(np.int32)


def _decode_all(records: PreparedRecords, channels: int) -> tuple[np.ndarray, np.ndarray]:
  """Reads in large pieces, and decodes each in threads: OpenCV releases the lock."""
  first = decode_image(records.example(0)[0], channels)
  images = np.empty((len(records), *first.shape), np.uint8)
  labels = np.empty(len(records), np.int32)

  def decode(start: int) -> None:
    numbers = range(start, min(start + _RECORDS_AT_ONCE, len(records)))
    for i, (encoded, label) in zip(numbers, records.examples(numbers), strict=True):
      try:
        image = decode_image(encoded, channels)
      except UnreadableImage as error:
        raise DamagedData(f"{records.describe(i)}: {error}") from error
      if image.shape != first.shape:
        raise DamagedData(
          f"{records.describe(i)} is an image of {image.shape[0]} x {image.shape[1]} pixels;"
          f" expected {first.shape[0]} x {first.shape[1]}, as the first."
        )
      images[i], labels[i] = image, label

  with concurrent.futures.ThreadPoolExecutor() as threads:
    for _ in threads.map(decode, range(0, len(records), _RECORDS_AT_ONCE)):
      pass  # raises what a thread raised
  return images, labels
