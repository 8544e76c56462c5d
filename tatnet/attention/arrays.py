"""Checks of the arrays of attention."""

import jax.numpy as jnp


def check_arrays(name: str, queries, keys, values, mask) -> None:
  """Queries, keys and values ``[batch, tokens, heads, size]``, and a mask of the read tokens.

  Raises:
    ValueError: arrays of other shapes.
    TypeError: a mask that is not of booleans.
  """
  shapes = [jnp.shape(array) for array in (queries, keys, values)]
  fits = [len(shape) == 4 for shape in shapes]
  if all(fits):
    (batch, _, heads, size), key_shape, value_shape = shapes
    fits = [
      key_shape[0] == batch,
      key_shape[2:] == (heads, size),
      value_shape[:3] == key_shape[:3],
    ]
  if not all(fits):
    raise ValueError(
      f"{name} got queries, keys and values of shapes {', '.join(map(str, shapes))}; expected arrays"
      " [batch, tokens, heads, size], keys and values of as many tokens."
    )
  if mask is None:
    return
  if jnp.result_type(mask) != jnp.bool_:
    raise TypeError(
      f"{name} got a mask of dtype {jnp.result_type(mask)}; expected booleans, True where there is a"
      " token: lengths[:, None] > jnp.arange(tokens)."
    )
  if jnp.shape(mask) != shapes[1][:2]:
    raise ValueError(
      f"{name} got a mask of shape {jnp.shape(mask)}; expected [batch, read tokens], here"
      f" {shapes[1][:2]}. Whether tokens read those after them is said by the schedule, or by"
      " causal."
    )


def check_reading(name: str, queries, keys, causal: bool, first) -> None:
  """Raises ValueError unless the reading tokens are among those that are read."""
  reading, read = queries.shape[1], keys.shape[1]
  starts = isinstance(first, int)
  whole = starts and first == 0 and reading == read
  if whole or (causal and not (starts and not 0 <= first <= read - reading)):
    return
  expected = "as many" if not causal else "read tokens that end with the reading ones, or go on"
  raise ValueError(
    f"{name} got {reading} reading and {read} read tokens and first={first}; expected {expected}."
  )
