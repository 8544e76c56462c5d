"""What a function is, seen from its values: a straight line, a rectifier, a named activation.

Many spellings make one function: ``jnp.maximum(x, 0)``, ``jax.nn.relu(x)`` and ``(x + |x|) / 2``
are a ReLU. A network that is traced and a function that is to be transformed are
looked at in the same way, and out to the same radius: what lies beyond it, such as a
kink at 20 where the signal's q is 1, the signal never sees.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from tatnet.layer import quadrature
from tatnet.layer.activations import ACTIVATIONS, Activation

Function = Callable[[jax.Array], jax.Array]

# Uneven, so that no period fits them, and dense about 0, where rectifiers have their kink.
_PLACES = np.concatenate([
  (np.arange(1, 90) * (np.sqrt(5) - 1) / 2) % 1.0,
  0.9137 * 2.0 ** -np.arange(36),
  [1.0],
])  # fmt: skip
_TOLERANCE, _OF_32_BITS = 1e-9, 1e-6
_FAR = 100.0


class Line(NamedTuple):
  """``slope * x + offset``."""

  slope: float
  offset: float


class Rectifier(NamedTuple):
  """``right * max(x, 0) + left * min(x, 0)``, with slopes that differ."""

  right: float
  left: float


def evaluate(function: Function, x: np.ndarray) -> np.ndarray:
  """Values in float64, whatever the process's own setting.

  Args:
    function: an elementwise JAX function.
    x: points, of any shape.
  """
  with jax.enable_x64(True):
    return np.asarray(function(jax.numpy.asarray(np.asarray(x, np.float64))), np.float64)


@functools.lru_cache(maxsize=1024)
def as_line(function: Function, radius: float = quadrature.RADIUS) -> Line | None:
  """The straight line that a function is, or None.

  Args:
    function: an elementwise JAX function, hashable.
    radius: how far from 0 it is looked at. A signal of q has its values within
      ``quadrature.RADIUS * sqrt(q)``.

  Example:
    >>> as_line(lambda x: (x + 1) ** 2 - x * x)
    Line(slope=2.0, offset=1.0)
  """
  sides = _sides(function, radius)
  if sides is None:
    return None
  x, right, left = sides
  line = Line(float(right[-1] - left[-1]) / (2 * radius), float(right[-1] + left[-1]) / 2)
  size = abs(line.slope) * np.maximum(x, _standard_deviation(radius)) + abs(line.offset)
  allowed = _tolerance(right, left) * size
  if np.any(np.abs(right - line.slope * x - line.offset) > allowed):
    return None
  if np.any(np.abs(left + line.slope * x - line.offset) > allowed):
    return None
  # Of slope and offset what is but rounding of the other is 0.
  rise = abs(line.slope) * radius
  return Line(
    line.slope if rise > 1e-12 * abs(line.offset) else 0.0,
    line.offset if abs(line.offset) > 1e-12 * rise else 0.0,
  )


@functools.lru_cache(maxsize=1024)
def as_rectifier(function: Function, radius: float = quadrature.RADIUS) -> Rectifier | None:
  """The rectifier that a function is: linear on both sides of 0, and not a line; or None.

  Args:
    function: an elementwise JAX function, hashable.
    radius: as in `as_line`.

  Example:
    >>> as_rectifier(lambda x: jnp.where(x > 0, 2 * x, -x))
    Rectifier(right=2.0, left=-1.0)
  """
  sides = _sides(function, radius)
  if sides is None:
    return None
  x, right, left = sides
  slopes = Rectifier(float(right[-1]) / radius, -float(left[-1]) / radius)
  size, tolerance = max(map(abs, slopes)), _tolerance(right, left)
  allowed = tolerance * size * np.maximum(x, 1e-3 * _standard_deviation(radius))
  if np.any(np.abs(right - slopes.right * x) > allowed):
    return None
  if np.any(np.abs(left + slopes.left * x) > allowed):
    return None
  return slopes if abs(slopes.right - slopes.left) > tolerance * size else None


def at_all_scales(
  recognise: Callable[[Function, float], Line | Rectifier | None], function: Function
) -> Line | Rectifier | None:
  """What a function is both near to 0 and far from it: for any input scale and q.

  Args:
    recognise: `as_line` or `as_rectifier`.
    function: an elementwise JAX function, hashable.
  """
  near, far = (recognise(function, radius) for radius in (quadrature.RADIUS, _FAR))
  return far if near is not None and far is not None and np.allclose(near, far, 1e-6, 0) else None


@functools.lru_cache(maxsize=1024)
def as_named(function: Function, radius: float = quadrature.RADIUS) -> Activation | None:
  """The named activation that has a function's values; or None.

  Args:
    function: an elementwise JAX function, hashable.
    radius: as in `as_line`.

  Example:
    >>> as_named(lambda x: x / (1 + jnp.exp(-x))).name
    'swish'
  """
  sides = _sides(function, radius)
  if sides is None:
    return None
  x, right, left = sides
  tolerance = _tolerance(right, left)
  for activation in ACTIVATIONS.values():
    with np.errstate(all="ignore"):
      own = activation.jet(x)[0], activation.jet(-x)[0]
    if all(
      np.allclose(found, values, rtol=tolerance, atol=tolerance / 100)
      for found, values in zip(own, (right, left), strict=True)
    ):
      return activation
  return None


def _standard_deviation(radius: float) -> float:
  return radius / quadrature.RADIUS


def _sides(function: Function, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
  """Distances x from 0, and the values at x and at -x; None if some are not finite."""
  x = radius * _PLACES
  values = evaluate(function, np.concatenate([x, -x]))
  return (x, *np.split(values, 2)) if np.isfinite(values).all() else None


def _tolerance(*values: np.ndarray) -> float:
  """Relative; wider for a function that computes in 32 bits."""
  values = np.concatenate(values)
  with np.errstate(over="ignore"):
    in_32_bits = np.all(values.astype(np.float32) == values)
  return _OF_32_BITS if in_32_bits and np.any(values) else _TOLERANCE
