"""Two symmetric matrices in the memory of one.

K-FAC keeps, for each side of each layer, an average and the inverse made from it.
Both are symmetric, so the lower triangle of one and the upper triangle of the other
fit into a single ``[..., n, n + 1]`` array: entry (i, j) is the average's for
j <= i, and the inverse's (i, j - 1) for j > i.
"""

import jax
import jax.numpy as jnp


def moved(packed: jax.Array, target: jax.Array, rate: jax.Array) -> jax.Array:
  """The pair with its first matrix moved towards a symmetric target; the second stays.

  Example:
    >>> from tatnet.optim.symmetric import average_of, moved
    >>> print(average_of(moved(jnp.zeros([2, 3]), jnp.eye(2), 0.5)))
    [[0.5 0. ]
     [0.  0.5]]
  """
  target = jnp.pad(target, [*[(0, 0)] * (target.ndim - 1), (0, 1)])
  return jnp.where(_is_first(packed), packed + rate * (target - packed), packed)


def with_inverse(packed: jax.Array, inverse: jax.Array) -> jax.Array:
  """The pair with another second matrix; the first stays.

  Example:
    >>> from tatnet.optim.symmetric import with_inverse
    >>> print(with_inverse(jnp.array([[2.0, 7, 5], [1, 3, 6]]), jnp.ones([2, 2])))
    [[2. 1. 1.]
     [1. 3. 1.]]
  """
  inverse = jnp.pad(inverse, [*[(0, 0)] * (inverse.ndim - 1), (1, 0)])
  return jnp.where(_is_first(packed), packed, inverse)


def diagonal(matrix: jax.Array) -> jax.Array:
  """Of a matrix ``[..., n, n]``, or of the first of a pair ``[..., n, n + 1]``.

  Example:
    >>> from tatnet.optim.symmetric import diagonal
    >>> print(diagonal(jnp.array([[2.0, 7, 5], [1, 3, 6]])))
    [2. 3.]
  """
  # Read by its stride: far cheaper than jnp.diagonal, to compile and to run.
  flat = matrix.reshape(*matrix.shape[:-2], -1)
  return flat[..., :: matrix.shape[-1] + 1]


def average_of(packed: jax.Array) -> jax.Array:
  """The first matrix of a pair.

  Example:
    >>> from tatnet.optim.symmetric import average_of
    >>> print(average_of(jnp.array([[2.0, 7, 5], [1, 3, 6]])))
    [[2. 1.]
     [1. 3.]]
  """
  lower = jnp.tril(packed[..., :-1])
  return lower + jnp.swapaxes(jnp.tril(lower, -1), -1, -2)


def inverse_of(packed: jax.Array) -> jax.Array:
  """The second matrix of a pair.

  Example:
    >>> from tatnet.optim.symmetric import inverse_of
    >>> print(inverse_of(jnp.array([[2.0, 7, 5], [1, 3, 6]])))
    [[7. 5.]
     [5. 6.]]
  """
  upper = jnp.triu(packed[..., 1:])
  return upper + jnp.swapaxes(jnp.triu(upper, 1), -1, -2)


def _is_first(packed: jax.Array) -> jax.Array:
  """Which entries of a pair are the first matrix's."""
  n = packed.shape[-2]
  return jnp.arange(n + 1) <= jnp.arange(n)[:, None]
