"""Augmentation of whole batches on the device, inside the jitted step."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

_PAD_MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge"}


def pad_crop_flip(
  key: jax.Array,
  images: jax.Array | np.ndarray,
  pad: int = 4,
  flip: bool = True,
  mode: Literal["zero", "reflect", "edge"] = "zero",
) -> jax.Array:
  """Shifts every image by up to `pad` pixels each way, and mirrors half of them.

  Each image is padded, and a window of its own size is cut out of that at a random
  place of its own. With the key and the batch, the result is the same on one device
  and on many.

  Args:
    key: a key of `jax.random`.
    images: ``[batch, height, width, channels]``, of any dtype.
    pad: the largest shift, in pixels.
    flip: whether to mirror left and right.
    mode: what comes in at the border: "zero", which is black before normalisation and
      the mean colour after it; "reflect"; or "edge".

  Returns:
    An array of the images' shape and dtype.

  Raises:
    ValueError: images of another rank, an unknown mode, or a shift that is negative or,
      for "reflect", as large as an image.

  Reference:
    He et al., "Deep residual learning" (arXiv 1512.03385), section 4.2.

  Example:
    >>> from tatnet.training import data
    >>> images = np.ones((2, 32, 32, 3), np.uint8)
    >>> data.pad_crop_flip(jax.random.key(0), images).shape
    (2, 32, 32, 3)
  """
  images = jnp.asarray(images)
  if images.ndim != 4:
    raise ValueError(
      f"pad_crop_flip got shape {images.shape}; expected [batch, height, width, channels]."
    )
  if mode not in _PAD_MODES:
    raise ValueError(f"mode={mode!r}; expected one of {', '.join(map(repr, _PAD_MODES))}.")
  size, height, width, channels = images.shape
  if pad < 0 or (mode == "reflect" and pad >= min(height, width)):
    raise ValueError(
      f"pad={pad} for images of {height}x{width}; expected a number of pixels from 0"
      f"{' to the size of the image, less one' if mode == 'reflect' else ''}."
    )
  shift_key, flip_key = jax.random.split(key)
  corners = jax.random.randint(shift_key, (size, 2), 0, 2 * pad + 1)
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=_PAD_MODES[mode])

  def cut(image, corner):
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

  cropped = jax.vmap(cut)(padded, corners)
  if not flip:
    return cropped
  mirrored = jax.random.bernoulli(flip_key, 0.5, (size, 1, 1, 1))
  return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


def shift(key: jax.Array, images: jax.Array | np.ndarray, pixels: int) -> jax.Array:
  """Shifts every image by up to `pixels` each way; for digits, which have no mirror image.

  Args:
    key: a key of `jax.random`.
    images: ``[batch, height, width, channels]``, of any dtype.
    pixels: the largest shift; zeros come in at the border.

  Returns:
    An array of the images' shape and dtype.

  Raises:
    ValueError: images of another rank, or a negative shift.

  Example:
    >>> from tatnet.training import data
    >>> data.shift(jax.random.key(0), np.ones((2, 8, 8, 1), np.uint8), 1).dtype
    dtype('uint8')
  """
  return pad_crop_flip(key, images, pixels, flip=False)
