"""Means and standard deviations of the channels of known data sets."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
  """Mean and standard deviation of each channel of the training images.

  Attributes:
    mean: of each channel, in [0, 1].
    std: likewise.

  Example:
    >>> from tatnet.training import data
    >>> data.STATISTICS["mnist"]
    ChannelStatistics(mean=(0.1307,), std=(0.3081,))
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]


# The first three are checked against the files by tests/training/data/test_arrays.py; CIFAR-100's
# and ImageNet's are those that the field agrees on. The digits' numbers:
#   x = data.load_arrays("digits", "train")[0] / 255; x.mean(), x.std()
_IMAGENET = ChannelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATISTICS = {
  "digits": ChannelStatistics((0.3056,), (0.3758,)),
  "mnist": ChannelStatistics((0.1307,), (0.3081,)),
  "cifar10": ChannelStatistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  "cifar100": ChannelStatistics((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
  "imagenet": _IMAGENET,
  "imagenet2012": _IMAGENET,
}


def normalize(
  images: jax.Array | np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """``(images / 255 - mean) / std``, channel by channel.

  Meant for the inside of the jitted step: images travel to the device as bytes, a
  quarter of their size as floats.

  Args:
    images: uint8 ``[..., channels]``.
    mean: of each channel, in [0, 1].
    std: of each channel, positive.

  Returns:
    float32 of the shape of the images.

  Raises:
    TypeError: the images are not uint8, and so perhaps divided by 255 already.
    ValueError: as many means and deviations as channels are needed.

  Example:
    >>> from tatnet.training import data
    >>> data.normalize(np.full((1, 1, 1, 1), 255, np.uint8), (0.5,), (0.25,)).item()
    2.0
  """
  images = jnp.asarray(images)
  if images.dtype != jnp.uint8:
    raise TypeError(f"normalize got dtype {images.dtype}; expected uint8 images in 0..255.")
  if not len(mean) == len(std) == images.shape[-1]:
    raise ValueError(
      f"mean={tuple(mean)} and std={tuple(std)} for images of shape {images.shape}; expected one"
      " number per channel, the last axis."
    )
  if min(std) <= 0:
    raise ValueError(f"std={tuple(std)}; expected positive numbers.")
  scale = 1 / (255 * np.asarray(std, np.float64))
  offset = np.asarray(mean, np.float64) / np.asarray(std, np.float64)
  return images.astype(jnp.float32) * scale.astype(np.float32) - offset.astype(np.float32)
