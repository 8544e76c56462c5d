"""Random images in place of a data set, to try a run or to time it."""

import io

import numpy as np

from tatnet.training import data

_SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
_CLASSES = {"cifar100": 100}
_SIZES = {"train": 2048, "test": 500}


def arrays(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels in the shapes of a data set."""
  rng = np.random.default_rng(_SIZES[split])
  shape = _SHAPES.get(name, (32, 32, 3))
  images = rng.integers(0, 256, (_SIZES[split], *shape), np.uint8)
  return images, (np.arange(len(images)) % _CLASSES.get(name, 10)).astype(np.int32)


def characters(pieces: int, context: int) -> tuple[np.ndarray, np.ndarray]:
  """Pieces of random characters, and for each the one that follows."""
  rng = np.random.default_rng(pieces)
  text = rng.integers(0, data.CHARACTERS, (pieces, context + 1), np.uint8)
  return text[:, :-1], text[:, 1:].astype(np.int32)


class Images:
  """A few random JPEGs, many times over, of 1000 classes."""

  num_classes = 1000

  def __init__(self, size: int, count: int = 4096):
    import PIL.Image

    self._count = count
    rng = np.random.default_rng(0)
    self._encoded = []
    for _ in range(8):
      coarse = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
      file = io.BytesIO()
      coarse.resize((size, size)).save(file, "JPEG")
      self._encoded.append(file.getvalue())

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> data.EncodedImage:
    return data.EncodedImage(self._encoded[index % 8], index % self.num_classes)
