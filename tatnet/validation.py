"""Checks of a user's own activation function before it is solved for."""

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.activations import ACTIVATIONS, Activation

_SHAPE = (3, 5)


def check_activation(activation: Activation) -> None:
  """Raises unless the function is elementwise, finite, continuous and has declared kinks.

  Raises:
    TypeError: it does not keep shape and dtype.
    ValueError: it mixes entries, is not finite, jumps, or has kinks that were not
      declared.
  """
  if ACTIVATIONS.get(activation.name) is activation:
    return
  _check_signature(activation)
  _check_elementwise(activation)
  _check_pieces(activation)


def _check_signature(activation: Activation) -> None:
  given = jax.ShapeDtypeStruct(_SHAPE, jnp.float32)
  try:
    out = jax.eval_shape(activation.function, given)
  except Exception as error:
    raise TypeError(
      f"{activation.name} failed on a float32 array of shape {_SHAPE}; expected an elementwise"
      f" JAX function. It said: {error}"
    ) from error
  if getattr(out, "shape", None) != _SHAPE or getattr(out, "dtype", None) != jnp.float32:
    raise TypeError(
      f"{activation.name} maps a float32 array of shape {_SHAPE} to {out}; expected an"
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
  # Panels start at an odd number, so that no plausible kink falls between two.
  edges = np.unique(np.concatenate([np.linspace(-12.0137, 12.0137, 97), activation.kinks]))
  left, right = np.nextafter(edges[1:], -np.inf), np.nextafter(edges[:-1], np.inf)
  starts, ends = activation.jet(right), activation.jet(left)
  t, w = np.polynomial.legendre.leggauss(16)
  half = np.diff(edges)[:, None] / 2
  points = (edges[1:, None] + edges[:-1, None]) / 2 + half * t
  values = activation.jet(points)
  for array, at in ((starts, right), (ends, left), (values, points)):
    if not np.isfinite(array).all():
      bad = np.broadcast_to(at, array.shape)[~np.isfinite(array)][0]
      raise ValueError(
        f"{activation.name} or one of its first three derivatives is not finite at x={bad:.4g};"
        " expected finite values on all of [-12, 12], where a normal variable can lie."
      )
  scale = np.max(np.abs(values), axis=(1, 2))
  for order, what in enumerate(("value", "slope", "curvature")):
    integral = np.sum(half * w * values[order + 1], axis=1)
    gap = np.abs(ends[order] - starts[order] - integral)
    worst = int(np.argmax(gap))
    if gap[worst] > 1e-6 * (scale[order] + scale[order + 1]):
      low, high = edges[worst], edges[worst + 1]
      if order == 0:
        remedy = "A discontinuous function has no C map slope and cannot be transformed"
      else:
        remedy = "Declare the point: tatnet.Activation(function, kinks=(x,))"
      raise ValueError(
        f"The {what} of {activation.name} jumps, or changes too steeply to integrate, between"
        f" x={low:.4g} and x={high:.4g}; expected a function that is smooth between its declared"
        f" kinks {activation.kinks}. {remedy}; a steep smooth function can be rescaled."
      )
  for kink in activation.kinks:
    below, above = activation.jet(np.nextafter([kink, kink], [-np.inf, np.inf]))[0]
    if abs(above - below) > 1e-9 * (1 + abs(above)):
      raise ValueError(
        f"{activation.name} jumps from {below:.6g} to {above:.6g} at its declared kink x={kink:g};"
        " expected a continuous function."
      )


def has_slope_jump(activation: Activation) -> bool:
  """Whether phi' jumps at some kink, so that E[phi''^2] does not exist."""
  kinks = np.asarray(activation.kinks, np.float64)
  left, right = (activation.jet(np.nextafter(kinks, end))[1] for end in (-np.inf, np.inf))
  return bool(np.any(np.abs(right - left) > 1e-9))
