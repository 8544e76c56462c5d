"""Examples whose cosines are known: what the models of the battery are measured with."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]])
GRAM = EXAMPLES @ EXAMPLES.T  # cosines 0, 0.48, 0.6 and 0.8


@dataclasses.dataclass(frozen=True)
class Inputs:
  """Examples and what is known of their kernel.

  Attributes:
    arrays: positional arguments of the model, the batch first.
    gram: cosines of the examples, shape [batch, batch]; the same at all locations.
  """

  arrays: tuple
  gram: np.ndarray

  @property
  def shapes(self) -> tuple:
    """The arguments as shapes; what is no array stays as it is."""
    return tuple(
      jax.ShapeDtypeStruct(a.shape, a.dtype) if hasattr(a, "shape") else a for a in self.arrays
    )


def signals(*shape: int, features_at: int = -1, also: Sequence[Any] = ()) -> Inputs:
  """Four float examples of q = 1 with the cosines of GRAM at every location.

  The locations are independent of each other: each has axes of its own.

  Args:
    *shape: locations and features of one example; at least three features.
    features_at: which axis of an example holds the features.
    also: further positional arguments.
  """
  *locations, features = shape if features_at == -1 else (*shape[1:], shape[0])
  normals = np.random.default_rng(0).normal(size=(math.prod(locations), features, 3))
  axes, _ = np.linalg.qr(normals)
  axes *= np.sign(np.random.default_rng(1).normal(size=(math.prod(locations), 1, 3)))
  x = np.einsum("lfk,nk->nlf", axes, EXAMPLES) * math.sqrt(features)
  x = x.reshape(4, *locations, features)
  x = np.moveaxis(x, -1, 1) if features_at == 0 else x
  return Inputs((jnp.asarray(x, jnp.float32), *also), GRAM)


def tokens(*locations: int, vocabulary: int = 64) -> Inputs:
  """Four examples of integers that differ from each other everywhere."""
  rng = np.random.default_rng(0)
  ids = [rng.permutation(vocabulary)[:4] for _ in range(math.prod(locations))]
  x = np.stack(ids, 1).reshape(4, *locations)
  return Inputs((jnp.asarray(x, jnp.int32),), np.eye(4))
