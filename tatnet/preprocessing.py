"""Per-location normalisation (PLN): inputs with q = 1 at every location."""

import math
import numbers
import warnings

import jax
import jax.numpy as jnp
import numpy as np

_MODES = ("one", "avg_q", "off")


def per_location_normalize(
  x: jax.Array | np.ndarray, homogeneous: str = "one", scale: float = 1.0
) -> jax.Array:
  """Divides every location by the root mean square over its channels.

  Kernel shaping assumes q = 1 at the input of the network, for every image and
  every location. A homogeneous coordinate appended before the division keeps the
  length of the original vector recoverable, and gives all-zero locations
  (frequent in CIFAR-10) a direction.

  Args:
    x: inputs ``[batch, *locations, channels]``; ``[batch]`` is taken as one channel.
    homogeneous: "one" appends the coordinate 1; "avg_q" the root mean square of the
      whole example; "off" appends none.
    scale: factor on the homogeneous coordinate.

  Returns:
    An array with mean square 1 over the last axis, which has one more entry unless
    `homogeneous` is "off"; float dtypes are kept.

  Raises:
    ValueError: an unknown mode, "avg_q" without a location axis, a scale that is
      not positive, or (outside of jit) an all-zero location that nothing can
      normalise.
    TypeError: x is not a float array.

  Reference:
    Deep Kernel Shaping (arXiv 2110.01765), "Uniform q values via Per-Location
    Normalization".

  Example:
    >>> tatnet.per_location_normalize(jnp.full((1, 2, 2, 3), 0.7), "avg_q").shape
    (1, 2, 2, 4)
  """
  if homogeneous not in _MODES:
    raise ValueError(
      f"homogeneous={homogeneous!r}; expected one of {', '.join(map(repr, _MODES))}."
    )
  if not (isinstance(scale, numbers.Real) and scale > 0 and math.isfinite(scale)):
    raise ValueError(f"scale={scale!r}; expected a positive number, or homogeneous='off'.")
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f"per_location_normalize got dtype {x.dtype}; expected floats. Convert images first:"
      " x.astype(jnp.float32) / 255."
    )
  if homogeneous == "avg_q" and x.ndim < 3:
    raise ValueError(
      f"homogeneous='avg_q' got shape {x.shape}; expected [batch, *locations, channels]. Without a"
      " location axis the coordinate would equal the vector's own length: use 'one' or 'off'."
    )
  if x.ndim < 2:
    x = x[..., None]
  if homogeneous == "off" and x.shape[-1] < 3:
    warnings.warn(
      f"per_location_normalize with homogeneous='off' and {x.shape[-1]} channel(s) keeps only"
      f" {'the sign' if x.shape[-1] == 1 else 'one angle'} of each location; 'one' keeps all.",
      stacklevel=2,
    )
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  if homogeneous != "off":
    shape = (*wide.shape[:-1], 1)
    if homogeneous == "one":
      coordinate = jnp.full(shape, scale, wide.dtype)
    else:
      coordinate = jnp.broadcast_to(scale * _root_mean_square(wide, range(1, wide.ndim)), shape)
    wide = jnp.concatenate([wide, coordinate], axis=-1)
  size = _root_mean_square(wide, (-1,))
  _check_not_zero(size, homogeneous)
  return (wide / size).astype(x.dtype)


def _root_mean_square(x: jax.Array, axes) -> jax.Array:
  """Root of the mean square, in units of the largest entry: squares overflow early."""
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=tuple(axes), keepdims=True))
  unit = jnp.where(largest > 0, largest, 1.0)
  return unit * jnp.sqrt(jnp.mean(jnp.square(x / unit), axis=tuple(axes), keepdims=True))


def _check_not_zero(size: jax.Array, homogeneous: str) -> None:
  try:
    zeros = int(np.sum(np.asarray(size) == 0))
  except jax.errors.TracerArrayConversionError:  # inside jit the values are not known
    return
  if zeros:
    raise ValueError(
      f"{zeros} location(s) are zero in all channels, and homogeneous={homogeneous!r} leaves them"
      " without a direction; expected non-zero locations. Use homogeneous='one'."
    )
