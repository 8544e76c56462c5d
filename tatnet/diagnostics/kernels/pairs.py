"""Pairs of inputs whose cosine similarity is given."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class InputPairs:
  """Inputs in pairs; what `input_pairs` makes and `kernel_report` takes.

  Attributes:
    inputs: array ``[2 * pairs, *shape]``; inputs 2i and 2i + 1 are a pair.
    cosines: their cosine similarities, shape [pairs].
  """

  inputs: jax.Array
  cosines: np.ndarray


def input_pairs(
  cosines: Sequence[float], shape: Sequence[int], key: jax.Array | None = None
) -> InputPairs:
  """Random inputs of q = 1 in pairs of given cosine similarity.

  Both hold exactly at every location, that is along the last axis, and so for the
  whole input as well.

  Args:
    cosines: cosine similarities, in [-1, 1]; one pair for each.
    shape: of one input, features last: (784,), (32, 32, 3). At least two features.
    key: a JAX random key; that of seed 0 by default.

  Returns:
    `InputPairs`.

  Raises:
    ValueError: a cosine outside [-1, 1], or fewer than two features.

  Example:
    >>> pairs = tatnet.diagnostics.input_pairs([0.0, 0.9], (16,))
    >>> x = np.asarray(pairs.inputs)
    >>> (x @ x.T / 16).round(3)[2:, 2:] + 0.0
    array([[1. , 0.9],
           [0.9, 1. ]], dtype=float32)
  """
  values = np.asarray(cosines, np.float64)
  if values.ndim != 1 or not values.size or not np.all(np.abs(values) <= 1):
    raise ValueError(f"cosines={cosines!r}; expected a list of numbers in [-1, 1].")
  if not shape or shape[-1] < 2 or min(shape) < 1:
    raise ValueError(
      f"shape={tuple(shape)!r}; expected that of one input with at least two features on its last"
      " axis: with one alone, only the cosines 1 and -1 are possible."
    )
  key = jax.random.key(0) if key is None else key
  # NumPy compiles no generator for a few vectors.
  generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  draws = generator.normal(size=(len(values), 2, *shape))
  first = _unit_q(draws[:, 0])
  other = draws[:, 1] - first * np.mean(draws[:, 1] * first, -1, keepdims=True)
  c = values.reshape(-1, *[1] * len(shape))
  second = c * first + np.sqrt(1 - c**2) * _unit_q(other)
  inputs = np.stack([first, second], axis=1).reshape(-1, *shape)
  return InputPairs(jnp.asarray(inputs, jnp.float32), values)


def _unit_q(x: np.ndarray) -> np.ndarray:
  return x / np.linalg.norm(x, axis=-1, keepdims=True) * math.sqrt(x.shape[-1])
