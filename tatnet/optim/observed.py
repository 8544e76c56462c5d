"""Identity functions whose backward pass observes what goes through them.

The cotangent of the dummy argument is the statistic: of what is seen on the way there, or of
the gradient on the way back.
"""

import functools

import jax

from tatnet.optim.patches import wide


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def observe_inputs(statistic, x, tap):
  """x itself; the dummy's cotangent is the statistic of x."""
  return x


observe_inputs.defvjp(
  lambda statistic, x, tap: (x, x),
  lambda statistic, x, g: (g, statistic.of_all_rows(x)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def observe_outputs(statistic, y, tap):
  """y itself; the dummies' cotangents are the statistic of y's gradient."""
  return y


observe_outputs.defvjp(
  lambda statistic, y, tap: (y, None),
  lambda statistic, kept, g: (g, statistic.of_all_rows(g)),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scaled(statistic, x, scale, tap):
  """``scale * x``; the dummy's cotangent is the statistic of the scale's gradients."""
  return scale * x


def _scaled_backward(statistic, kept, g):
  x, scale = kept
  own = statistic.of_all_rows(scale, g * x)
  return scale * g, _summed_like(g * x, scale), own[statistic.names[0]]


scaled.defvjp(lambda statistic, x, scale, tap: (scale * x, (x, scale)), _scaled_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def shifted(statistic, x, offset, tap):
  """``x + offset``, likewise."""
  return x + offset


def _shifted_backward(statistic, offset, g):
  own = statistic.of_all_rows(offset, g)
  return g, _summed_like(g, offset), own[statistic.names[0]]


shifted.defvjp(lambda statistic, x, offset, tap: (x + offset, offset), _shifted_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def observe_rows(statistic, ids, y, tap):
  """y itself, rows of a table; the cotangents are the statistic of ids and gradient."""
  return y


observe_rows.defvjp(
  lambda statistic, ids, y, tap: (y, ids),
  lambda statistic, ids, g: (None, g, statistic.of_all_rows(ids, g)),
)


def _summed_like(g: jax.Array, parameter: jax.Array) -> jax.Array:
  """The gradient of a parameter that was broadcast."""
  shape = (1,) * (g.ndim - parameter.ndim) + parameter.shape
  axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
  return g.sum(axes, dtype=wide(g)).reshape(parameter.shape).astype(parameter.dtype)
