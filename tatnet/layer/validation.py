"""Checks of a user's own activation function before it is solved for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.layer.activations import Activation, is_library

_SHAPE = (3, 5)


@functools.lru_cache(maxsize=256)
def check_activation(activation: Activation) -> None:
  """Raises unless the function is elementwise, finite, continuous and has declared kinks.

  Raises:
    TypeError: it does not keep shape and dtype.
    ValueError: it mixes entries, is not finite, jumps, or has kinks that were not
      declared.
  """
  if is_library(activation):
    return
  _check_signature(activation)
  _check_elementwise(activation)
  _check_pieces(activation)


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
      if getattr(out, "shape", None) != _SHAPE or getattr(out, "dtype", None) != dtype:
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
  for part, (alone, together) in parts.items():
    if not np.allclose(alone, together, rtol=1e-9, atol=1e-9, equal_nan=True):
      raise ValueError(
        f"{activation.name} gives other values on the {part} of an array than on all of it;"
        " expected an elementwise function, whose every output depends on one input only."
      )


def _check_pieces(activation: Activation) -> None:
  """Between declared kinks phi, phi' and phi'' must be the integrals of their derivatives."""
  # An uneven range, so that no plausible kink falls between two panels. Panels
  # that end at a declared kink stop just short of it.
  edges = np.unique(np.concatenate([np.linspace(-12.0137, 12.1731, 98), activation.kinks]))
  margin = np.isin(edges, activation.kinks) * 2.0**-30 * (1 + np.abs(edges))
  for low, high in zip(edges[:-1] + margin[:-1], edges[1:] - margin[1:], strict=True):
    _check_panel(activation, low, high)
  left, right = activation.sides
  for kink, below, above in zip(activation.kinks, left[0], right[0], strict=True):
    if abs(above - below) > 1e-9 * (1 + abs(above)):
      raise ValueError(
        f"{activation.name} jumps from {below:.6g} to {above:.6g} at its declared kink x={kink:g};"
        " expected a continuous function."
      )


def _check_panel(activation: Activation, low: float, high: float) -> None:
  """Raises if something jumps in the panel: what no subdivision makes integrable."""
  gaps = _gaps(activation, low, high)
  while gaps.any():
    if high - low < 1e-9 * (1 + abs(low)):
      raise ValueError(_jump(activation, low, order=int(np.argmax(gaps > 0))))
    middle = low + (high - low) / 2
    halves = [(low, middle), (middle, high)]
    both = [_gaps(activation, *half) for half in halves]
    worst = int(np.max(both[1]) > np.max(both[0]))
    gaps, (low, high) = both[worst], halves[worst]


def _gaps(activation: Activation, low: float, high: float) -> np.ndarray:
  """How far phi, phi', phi'' are from the integrals of their derivatives; 0 within rounding."""
  t, w = np.polynomial.legendre.leggauss(16)
  half = (high - low) / 2
  points = np.concatenate([[low], low + half * (1 + t), [high]])
  values = activation.jet(points)
  finite = np.isfinite(values)
  if not finite.all():
    bad = np.broadcast_to(points, values.shape)[~finite][0]
    raise ValueError(
      f"{activation.name} or one of its first three derivatives is not finite at x={bad:.4g};"
      " expected finite values on all of [-12, 12], where a normal variable can lie."
    )
  size = np.max(np.abs(values), axis=1)
  gap = np.abs(values[:3, -1] - values[:3, 0] - half * values[1:, 1:-1] @ w)
  tolerance = 1e-6 * (size[:3] + (high - low) * size[1:]) + 1e-9 * np.max(size[:2])
  return np.where(gap > tolerance, gap / (tolerance + 1e-300), 0.0)


def _jump(activation: Activation, x: float, order: int) -> str:
  what = ("value", "slope", "curvature")[order]
  if order == 0:
    remedy = "A discontinuous function cannot be transformed: its C map has no slope at 1."
  else:
    # Halving ends within 1e-9: of the numbers there the roundest is meant.
    remedy = f"Declare the point: tatnet.Activation(function, kinks=({round(x, 8) + 0.0:g},))."
  return (
    f"The {what} of {activation.name} jumps at x={round(x, 8) + 0.0:g}; expected a function that is"
    f" smooth between its declared kinks {activation.kinks}. {remedy}"
  )
