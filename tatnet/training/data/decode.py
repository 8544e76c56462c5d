"""Encoded images to arrays, and the crops of ImageNet-like training and evaluation."""

import functools
import io
import math
from typing import Protocol

import numpy as np

from tatnet.training.data import jpeg

_CROP_ATTEMPTS = 10
NUMBERS_OF_A_CROP = 2 * _CROP_ATTEMPTS + 3  # at most: each attempt's shape, a place, a coin


_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 178_956_970  # half a gigabyte decoded; where Pillow refuses


class UnreadableImage(ValueError):  # noqa: N818, names the image, as FileNotFoundError the file
  """Bytes that are no image, or a damaged one; a file that cannot be opened.

  Example:
    >>> from tatnet.training import data
    >>> try:
    ...   data.decode_image(b"not an image")
    ... except data.UnreadableImage as error:
    ...   str(error)
    '12 bytes are not a readable JPEG or PNG image.'
  """


def decode_image(encoded: bytes, channels: int = 3) -> np.ndarray:
  """Decodes JPEG or PNG.

  OpenCV does it where it is installed, else Pillow, which is slower. The two may differ
  by a few grey levels in a JPEG's colours; PNGs are exact, and of 16 bits the upper 8.

  Damage in the middle of a JPEG is found where it breaks the order of its markers, or
  left a run of zeros; JPEGs have no checksums, so that a few changed bits are not.

  Args:
    encoded: the bytes of the file.
    channels: 3 for RGB, greyscale images included; 1 for greyscale.

  Returns:
    uint8 ``[height, width, channels]``, turned upright where the file says how.

  Raises:
    UnreadableImage: not a JPEG or PNG image, truncated or damaged, or of more than 179
      million pixels.

  Example:
    >>> import io, PIL.Image
    >>> from tatnet.training import data
    >>> file = io.BytesIO()
    >>> PIL.Image.new("RGB", (4, 2), (255, 0, 9)).save(file, "PNG")
    >>> data.decode_image(file.getvalue())[0, 0]
    array([255,   0,   9], dtype=uint8)
  """
  height, width = _size(encoded)
  if height * width > _MOST_PIXELS:
    raise UnreadableImage(
      f"{len(encoded)} bytes claim to be {height} x {width} pixels; expected at most"
      f" {_MOST_PIXELS} in all."
    )
  image = _decode(encoded, channels)
  if image is None:
    raise UnreadableImage(f"{len(encoded)} bytes are not a readable JPEG or PNG image.")
  return image


def _size(encoded: bytes) -> tuple[int, int]:
  """Height and width, before memory is taken for them."""
  if encoded[:2] == jpeg.START:
    try:
      return jpeg.size(encoded)
    except jpeg.Damaged as damage:
      raise UnreadableImage(
        f"{len(encoded)} bytes are not a readable JPEG or PNG image: {damage}."
      ) from damage
  if encoded[:8] == _PNG and len(encoded) >= 24:
    return int.from_bytes(encoded[20:24]), int.from_bytes(encoded[16:20])
  raise UnreadableImage(f"{len(encoded)} bytes are not a readable JPEG or PNG image.")


class Draws(Protocol):
  """What random crops are made from: a `numpy.random.Generator`, or numbers drawn ahead."""

  def random(self) -> float:
    """A number from [0, 1)."""


def random_resized_crop_flip(
  rng: Draws,
  image: np.ndarray,
  size: int = 224,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """A random part of an image, resized to a square, half of the time mirrored.

  The crop's area is uniform in `scale` times the image's, its ratio of width to height
  log-uniform in `ratio`. Where ten draws do not fit into the image, it is the largest
  crop in the middle whose ratio is allowed.

  Args:
    rng: determines the result together with the image.
    image: uint8 ``[height, width, channels]``.
    size: height and width of the result.
    scale: smallest and largest part of the area.
    ratio: smallest and largest width / height.

  Returns:
    uint8 ``[size, size, channels]``.

  Reference:
    Szegedy et al., "Going deeper with convolutions" (arXiv 1409.4842), section 6.

  Example:
    >>> from tatnet.training import data
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> data.random_resized_crop_flip(np.random.default_rng(0), image, size=16).shape
    (16, 16, 3)
  """
  top, left, height, width = _draw_crop(rng, image.shape[0], image.shape[1], scale, ratio)
  crop = resize(image[top : top + height, left : left + width], size, size)
  return _mirror(crop) if rng.random() < 0.5 else crop


def center_crop(image: np.ndarray, size: int, resize_to: int = 256) -> np.ndarray:
  """The middle of an image whose shorter side is resized to `resize_to` pixels.

  Args:
    image: uint8 ``[height, width, channels]``.
    size: height and width of the result, at most `resize_to`.
    resize_to: length of the shorter side.

  Returns:
    uint8 ``[size, size, channels]``.

  Raises:
    ValueError: size is larger than resize_to.

  Example:
    >>> from tatnet.training import data
    >>> data.center_crop(np.zeros((40, 60, 3), np.uint8), 28, resize_to=32).shape
    (28, 28, 3)
  """
  if not 0 < size <= resize_to:
    raise ValueError(f"size={size}, resize_to={resize_to}; expected 0 < size <= resize_to.")
  height, width = image.shape[:2]
  # Only the part that stays is resized: as resizing everything, without the waste.
  side = size / resize_to * min(height, width)
  span = max(round(side), 1)
  top, left = (height - span) // 2, (width - span) // 2
  return resize(image[top : top + span, left : left + span], size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes: averages where it shrinks, interpolates linearly where it enlarges."""
  if image.shape[:2] == (height, width):
    return np.ascontiguousarray(image)
  opencv = _opencv()
  if opencv is None:
    from PIL import Image

    filtered = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    resized = np.asarray(filtered.resize((width, height), Image.Resampling.BILINEAR))
  else:
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = opencv.INTER_AREA if shrinks else opencv.INTER_LINEAR
    resized = opencv.resize(image, (width, height), interpolation=method)
  return resized.reshape(height, width, image.shape[-1])  # a single channel loses its axis


def _draw_crop(rng, height: int, width: int, scale, ratio) -> tuple[int, int, int, int]:
  log_ratio = math.log(ratio[0]), math.log(ratio[1])
  for _ in range(_CROP_ATTEMPTS):
    area = _between(scale, rng.random()) * height * width
    shape = math.exp(_between(log_ratio, rng.random()))
    crop_width, crop_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
    if 0 < crop_width <= width and 0 < crop_height <= height:
      top = int(rng.random() * (height - crop_height + 1))
      left = int(rng.random() * (width - crop_width + 1))
      return top, left, crop_height, crop_width
  crop_width = min(width, max(round(height * ratio[1]), 1))
  crop_height = min(height, max(round(width / ratio[0]), 1))
  return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _between(ends: tuple[float, float], part: float) -> float:
  return ends[0] + part * (ends[1] - ends[0])


def _mirror(image: np.ndarray) -> np.ndarray:
  opencv = _opencv()
  if opencv is None or image.shape[-1] == 1:
    return np.ascontiguousarray(image[:, ::-1])
  # NumPy copies three bytes at a time, which takes as long as decoding.
  return opencv.flip(image, 1)


@functools.cache
def _opencv():
  try:
    import cv2
  except ImportError:
    return None
  return cv2


def _decode(encoded: bytes, channels: int) -> np.ndarray | None:
  opencv = _opencv()
  if opencv is None:
    return _decode_with_pillow(encoded, channels)
  flag = opencv.IMREAD_COLOR if channels == 3 else opencv.IMREAD_GRAYSCALE
  try:
    image = opencv.imdecode(np.frombuffer(encoded, np.uint8), flag)
  except opencv.error:
    return None
  if image is None:
    return None
  return opencv.cvtColor(image, opencv.COLOR_BGR2RGB) if channels == 3 else image[..., None]


def _decode_with_pillow(encoded: bytes, channels: int) -> np.ndarray | None:
  from PIL import Image, ImageOps

  try:
    with Image.open(io.BytesIO(encoded)) as file:
      if file.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
        file = Image.fromarray((np.asarray(file) >> 8).astype(np.uint8))
      upright = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
      return np.asarray(upright).reshape(upright.height, upright.width, channels)
  # Pillow raises each of them for broken files.
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    return None
