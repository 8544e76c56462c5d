"""Models of many kinds: how to trace one, how to run it, and what is known of it by hand."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

KEY = jax.random.key(0)
W, REST = 0.6, 0.8  # weights of a residual sum: 0.36 + 0.64 = 1


@dataclasses.dataclass(frozen=True)
class Model:
  """A model, its input's shape, and what is known about it.

  Attributes:
    trace: an input (array or shapes) -> topology.
    run: (activation, input) -> output, for real.
    maximum: f(x, r) by hand.
    warns: of what it is warned, as a regular expression.
  """

  name: str
  shape: tuple[int, ...]
  trace: Callable
  run: Callable
  maximum: Callable
  warns: str = ""


def times(n, r, x):
  """r applied n times."""
  for _ in range(n):
    x = r(x)
  return x


def filled(shapes):
  """Arrays for shapes: 0.1 in every float entry, which takes no compiling."""

  def fill(shape):
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return KEY
    number = 0.1 if jnp.issubdtype(shape.dtype, jnp.floating) else 0
    return jnp.asarray(np.full(shape.shape, number, shape.dtype))

  return jax.tree.map(fill, shapes)


def residual_maximum(blocks, final=0):
  """Blocks with one nonlinear layer in the branch, then more layers."""

  def maximum(x, r):
    start = x
    for _ in range(blocks):
      x = W**2 * x + REST**2 * r(x)
    return max(times(final, r, x), r(start))

  return maximum


def shape_of(model):
  return jax.ShapeDtypeStruct(model.shape, jnp.float32)


def topology_of(model, x=None):
  """The model's topology, for an input or its shape."""
  warns = pytest.warns(tatnet.TopologyWarning, match=model.warns)
  with warns if model.warns else contextlib.nullcontext():
    return model.trace(shape_of(model) if x is None else x)
