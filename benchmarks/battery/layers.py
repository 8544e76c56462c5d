"""Haiku layers with weights of variance 1 / inputs, which most models are made of."""

import haiku as hk

from battery.initial import WIDTH, gaussian_in_haiku

CHANNELS = 128


def linear(size: int = WIDTH, **options) -> hk.Linear:
  """A dense layer."""
  return hk.Linear(size, w_init=gaussian_in_haiku, **options)


def conv(size: int = 3, channels: int = CHANNELS, **options) -> hk.Conv2D:
  """A convolution with a Delta kernel."""
  return hk.Conv2D(channels, size, w_init=gaussian_in_haiku, **options)
