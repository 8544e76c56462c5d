"""Weights of variance 1 / inputs, for every library; a kernel with a window is Delta."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

WIDTH = 256  # of hidden layers


@functools.partial(jax.jit, static_argnums=(1, 2))
def _gaussian(key, shape, dtype):
  """A kernel [*window, inputs, outputs]."""
  *window, inputs, outputs = shape
  if any(size % 2 == 0 for size in window):  # no centre: all taps
    kernel = jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))
    return kernel.astype(dtype)
  matrix = jax.random.normal(key, (inputs, outputs)) / math.sqrt(inputs)
  pads = [((size - 1) // 2,) * 2 for size in window]
  return jnp.pad(matrix[*[None] * len(window)], [*pads, (0, 0), (0, 0)]).astype(dtype)


def gaussian(key, shape, dtype=jnp.float32, out_sharding=None):
  """A kernel [*window, inputs, outputs], as an initialiser of Flax."""
  del out_sharding
  return _gaussian(key, tuple(shape), jnp.dtype(dtype))


def everywhere(key, shape, dtype=jnp.float32):
  """A kernel [*window, inputs, outputs] that is not Delta: all its taps are random."""
  return jax.random.normal(key, shape, dtype) / math.sqrt(math.prod(shape[:-1]))


def embedding(key, shape, dtype=jnp.float32, out_sharding=None):
  """A table [entries, features] with rows of q = 1."""
  del out_sharding
  return jax.random.normal(key, shape, dtype)


def gaussian_in_haiku(shape, dtype):
  """`gaussian` as an initialiser of Haiku."""
  import haiku as hk

  return gaussian(hk.next_rng_key(), shape, dtype)


def embedding_in_haiku(shape, dtype):
  """`embedding` as an initialiser of Haiku."""
  import haiku as hk

  return embedding(hk.next_rng_key(), shape, dtype)


def weights(*shapes: tuple[int, ...]) -> Callable:
  """init(key) -> list of kernels of these shapes."""

  def init(key):
    keys = jax.random.split(key, len(shapes))
    return [gaussian(key, shape) for key, shape in zip(keys, shapes, strict=True)]

  return init


def squares(count: int, width: int = WIDTH, **also) -> Callable:
  """init(key) -> {"w": list of square matrices, ...}, with constants that start as given."""

  def init(key):
    kernels = weights(*[(width, width)] * count)(key)
    return {"w": kernels, **{name: jnp.asarray(value, jnp.float32) for name, value in also.items()}}

  return init
