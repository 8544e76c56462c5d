"""Checks of a user's own activation function before it is solved for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.layer import continuity
from tatnet.layer.activations import Activation, is_library
from tatnet.layer.quadrature import RADIUS

_SHAPE = (3, 5)


@functools.lru_cache(maxsize=256)
def check_activation(activation: Activation, radius: float = RADIUS) -> None:
  """Raises unless the function can be transformed.

  Args:
    activation: what is checked; named activations are right.
    radius: how far from 0 it is looked at. A signal of q has its values within
      ``RADIUS * sqrt(q)``; it must be finite within `RADIUS` only.

  Raises:
    TypeError: it does not keep shape and dtype.
    ValueError: it mixes entries, is not finite, has a derivative that is not its own,
      jumps, or has kinks that were not declared.
  """
  if not is_library(activation):
    check_function(activation)
    continuity.check_pieces(activation, radius)


@functools.lru_cache(maxsize=256)
def check_function(activation: Activation) -> None:
  """Raises unless it is an elementwise JAX function, as `check_activation` does."""
  _check_signature(activation)
  _check_elementwise(activation)
  _check_values(activation)


def _check_signature(activation: Activation) -> None:
  with jax.enable_x64(True):
    for dtype in (jnp.float32, jnp.float64):
      try:
        given = jax.ShapeDtypeStruct(_SHAPE, dtype)
        out = jax.eval_shape(lambda x: activation.function(x), given)
      except Exception as error:
        raise TypeError(
          f"{activation.name} failed on a {given.dtype} array of shape {_SHAPE}; expected an"
          f" elementwise JAX function. It said: {error}"
        ) from error
      # Constants of its own, such as entries of a NumPy array, may make 64 bits of 32 here.
      allowed = (given.dtype, jnp.dtype(jnp.float64))
      if getattr(out, "shape", None) != _SHAPE or getattr(out, "dtype", None) not in allowed:
        raise TypeError(
          f"{activation.name} maps a {given.dtype} array of shape {_SHAPE} to {out}; expected an"
          " elementwise function that keeps shape and dtype."
        )


def _check_elementwise(activation: Activation) -> None:
  x = np.linspace(-3.1, 2.9, 61)
  whole = activation.jet(x)[0]
  parts = {
    "first half": (activation.jet(x[:30])[0], whole[:30]),
    "second half": (activation.jet(x[30:])[0], whole[30:]),
    "reverse": (activation.jet(x[::-1])[0][::-1], whole),
  }
  tolerance = max(1e-9, 100 * activation.precision)
  for part, (alone, together) in parts.items():
    if not np.allclose(alone, together, rtol=tolerance, atol=tolerance, equal_nan=True):
      raise ValueError(
        f"{activation.name} gives other values on the {part} of an array than on all of it;"
        " expected an elementwise function, whose every output depends on one input only."
      )


def _check_values(activation: Activation) -> None:
  """The jet that a user gives is that of the function."""
  x = np.linspace(-3.1, 2.9, 61)
  with jax.enable_x64(True):
    values = np.asarray(activation.function(jnp.asarray(x)), np.float64)
  with np.errstate(invalid="ignore"):
    off = np.abs(values - activation.jet(x)[0])
  if np.any(off > 1e-5 * (1 + np.abs(values))):
    worst = int(np.argmax(off))
    raise ValueError(
      f"The jet of {activation.name} has the value {activation.jet(x)[0, worst]:.6g} at"
      f" x={x[worst]:.4g}, where the function has {values[worst]:.6g}; expected the value and the"
      " first three derivatives of the function itself."
    )
