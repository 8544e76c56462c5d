"""Statistics of the patches that a convolution reads, without making all patches.

A patch holds the inputs that one output location sees, in the order of the kernel
``[*window, channels]`` flattened. Inputs are ``[batch, *space, channels]``.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Window:
  """Geometry of a convolution: one entry for each axis of space.

  Attributes:
    size: of the kernel.
    stride: locations of the input per location of the output.
    dilation: distance of neighbouring taps.
    padding: pairs (before, after).
  """

  size: tuple[int, ...]
  stride: tuple[int, ...]
  dilation: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]

  def outputs(self, space: tuple[int, ...]) -> tuple[int, ...]:
    """Number of output locations along each axis."""
    return tuple(
      (n + before + after - (k - 1) * d - 1) // s + 1
      for n, k, s, d, (before, after) in zip(
        space, self.size, self.stride, self.dilation, self.padding, strict=True
      )
    )


def padded(x: jax.Array, window: Window) -> jax.Array:
  """Inputs with zeros around them, or cropped where the padding is negative."""
  edges = [(0, 0), *window.padding, (0, 0)]
  return jax.lax.pad(x, jnp.zeros([], x.dtype), [(a, b, 0) for a, b in edges])


def _taps(x: jax.Array, axis: int, window: Window, i: int, count: int) -> list[jax.Array]:
  """What each tap of the window's i-th axis sees: slices of `count` locations."""
  stride, dilation = window.stride[i], window.dilation[i]
  return [
    jax.lax.slice_in_dim(
      x, tap * dilation, tap * dilation + (count - 1) * stride + 1, stride, axis=axis
    )
    for tap in range(window.size[i])
  ]


def patch_sum(x: jax.Array, window: Window) -> jax.Array:
  """Sum of the patches of every example, ``[batch, prod(size) * channels]``."""
  counts = window.outputs(x.shape[1:-1])
  x = padded(x, window)
  for axis in range(x.ndim - 2, 0, -1):  # taps gather in front of the channels
    taps = _taps(x, axis, window, axis - 1, counts[axis - 1])
    x = jnp.stack([tap.sum(axis) for tap in taps], axis=-1)
    # Order of the kernel: earlier axes of space are outer, channels are innermost.
    x = jnp.moveaxis(x, -1, axis)
  return x.reshape(x.shape[0], -1)


def patch_moment(x: jax.Array, window: Window) -> jax.Array:
  """Sum of ``patch patch^T`` over examples and locations, ``[d, d]``.

  Patches are made along all axes but the last. Along that one, neighbouring taps
  see the same signal shifted: for stride 1 only one product for each distance of
  two taps is needed, less what lies beyond the border of either. For a window of 3
  that is a third of the operations and of the memory.
  """
  counts = window.outputs(x.shape[1:-1])
  columns = _columns(x, window, counts)
  size, stride, dilation = window.size[-1], window.stride[-1], window.dilation[-1]
  if size == 1 or stride != 1 or counts[-1] <= (size - 1) * dilation:
    taps = _taps(columns, 1, window, -1, counts[-1])
    patches = jnp.stack(taps, axis=-2)
    moment = jnp.einsum("btkd,btle->kdle", patches, patches, preferred_element_type=wide(x))
  else:
    moment = _shifted_moment(columns, size, dilation, counts[-1])
  # The window's last axis belongs between the others and the channels.
  inner = columns.shape[-1] // x.shape[-1]
  k, c = size, x.shape[-1]
  moment = moment.reshape(k, inner, c, k, inner, c).transpose(1, 0, 2, 4, 3, 5)
  return moment.reshape(inner * k * c, inner * k * c)


def _columns(x: jax.Array, window: Window, counts: tuple[int, ...]) -> jax.Array:
  """Patches along all axes but the last: ``[batch, rows * ..., locations, d]``."""
  x = padded(x, window)
  outer = x.ndim - 3
  for axis in range(1, outer + 1):
    taps = _taps(x, axis, window, axis - 1, counts[axis - 1])
    x = jnp.stack(taps, axis=-2)
    if axis > 1:  # merge with the taps of the axes before, which are outer
      x = x.reshape(*x.shape[: outer + 2], -1, x.shape[-1])
  batch = x.shape[0]
  return x.reshape(batch * math.prod(counts[:-1]), x.shape[outer + 1], -1)


def _shifted_moment(columns: jax.Array, size: int, dilation: int, count: int) -> jax.Array:
  """``[size, d, size, d]`` from one product for each distance of two taps."""
  length = columns.shape[1]

  def product(start: int, stop: int, shift: int) -> jax.Array:
    a, b = columns[:, start:stop], columns[:, start + shift : stop + shift]
    return jnp.einsum("bld,ble->de", a, b, preferred_element_type=wide(columns))

  rows = [[None] * size for _ in range(size)]
  for distance in range(size):
    shift = distance * dilation
    everywhere = product(0, length - shift, shift)
    for tap in range(size - distance):
      start = tap * dilation
      moment = everywhere
      for a, b in ((0, start), (start + count, length - shift)):
        if a < b:
          moment = moment - product(a, b, shift)
      rows[tap][tap + distance] = moment
      rows[tap + distance][tap] = moment.T
  return jnp.stack([jnp.stack(row, axis=1) for row in rows])


def wide(x: jax.Array) -> jnp.dtype:
  """Sums are kept in at least 32 bits."""
  return jnp.promote_types(x.dtype, jnp.float32)


def window_of(space_shape, size, stride, padding, dilation) -> Window:
  """The geometry of a convolution of inputs ``[*space]``."""
  space = len(size)

  def each(value) -> tuple[int, ...]:
    return (value,) * space if isinstance(value, int) else tuple(value)

  stride, dilation = each(stride), each(dilation)
  if isinstance(padding, str):
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    padding = jax.lax.padtype_to_pads(space_shape, reach, stride, padding)
  return Window(tuple(size), stride, dilation, tuple((int(a), int(b)) for a, b in padding))


def strided(x: jax.Array, window: Window) -> jax.Array:
  """What a window of one location sees."""
  steps = (slice(None, None, stride) for stride in window.stride)
  return padded(x, window)[(slice(None), *steps)]
