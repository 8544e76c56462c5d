"""Two symmetric matrices in the memory of one.

K-FAC keeps, for each side of each layer, an average and the inverse made from it.
Both are symmetric, so the lower triangle of one and the upper triangle of the other
fit into a single ``[..., n, n + 1]`` array: entry (i, j) is the average's for
j <= i, and the inverse's (i, j - 1) for j > i.
"""

import jax
import jax.numpy as jnp


def pack(average: jax.Array, inverse: jax.Array) -> jax.Array:
  """Both matrices, ``[..., n, n]`` each, as one ``[..., n, n + 1]`` array.

  Example:
    >>> from tatnet.optim.symmetric import average_of, inverse_of, pack
    >>> a, b = jnp.array([[2.0, 1], [1, 3]]), jnp.array([[7.0, 5], [5, 6]])
    >>> print(pack(a, b))
    [[2. 7. 5.]
     [1. 3. 6.]]
    >>> bool((average_of(pack(a, b)) == a).all() and (inverse_of(pack(a, b)) == b).all())
    True
  """
  no_column = [(0, 0)] * (average.ndim - 1)
  return jnp.pad(jnp.tril(average), [*no_column, (0, 1)]) + jnp.pad(
    jnp.triu(inverse), [*no_column, (1, 0)]
  )


def moved(packed: jax.Array, target: jax.Array, rate: jax.Array) -> jax.Array:
  """The pair with its first matrix moved towards a symmetric target; the second stays.

  Example:
    >>> from tatnet.optim.symmetric import average_of, moved
    >>> print(average_of(moved(jnp.zeros([2, 3]), jnp.eye(2), 0.5)))
    [[0.5 0. ]
     [0.  0.5]]
  """
  n = target.shape[-1]
  is_first = jnp.arange(n + 1) <= jnp.arange(n)[:, None]
  target = jnp.pad(target, [*[(0, 0)] * (target.ndim - 1), (0, 1)])
  return jnp.where(is_first, packed + rate * (target - packed), packed)


def average_of(packed: jax.Array) -> jax.Array:
  """The first matrix of a pair."""
  lower = jnp.tril(packed[..., :-1])
  return lower + jnp.swapaxes(jnp.tril(lower, -1), -1, -2)


def inverse_of(packed: jax.Array) -> jax.Array:
  """The second matrix of a pair."""
  upper = jnp.triu(packed[..., 1:])
  return upper + jnp.swapaxes(jnp.triu(upper, 1), -1, -2)
