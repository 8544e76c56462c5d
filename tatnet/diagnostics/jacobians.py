"""Singular values of Jacobians: all of them from the matrix, the largest without it.

Shortcuts turn the Jacobian J of a block into I + J, which moves small singular
values away from 0. How small the smallest are bounds how fast a network trains
from below (`tatnet.diagnostics.tangent_kernel`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

_ENTRIES = 2**28


def jacobian(function: Callable[..., Any], x: Any, *arguments: Any) -> np.ndarray:
  """The Jacobian of a function as a matrix.

  Rows are the entries of the output and columns those of the input, each flattened
  in the order of `jax.flatten_util.ravel_pytree`. For a batch it is the Jacobian
  of the whole batch, in which batch normalisation couples the examples.

  Args:
    function: ``function(x, *arguments)``, from and to an array or pytree of float
      arrays. The same function object is compiled once, so pass what changes, such
      as parameters, as arguments.
    x: where.
    *arguments: further arguments, pytrees of arrays.

  Returns:
    A float64 array [outputs, inputs], computed in the precision of x.

  Raises:
    ValueError: the matrix would have more than 2^28 entries.

  Example:
    >>> jacobian(lambda x: x[:2] * x[2], jnp.array([1.0, 2.0, 3.0]))
    array([[3., 0., 1.],
           [0., 3., 2.]])
  """
  flat, _ = ravel_pytree(x)
  output = jax.eval_shape(lambda x: ravel_pytree(function(x, *arguments))[0], x)
  rows, columns = output.size, flat.size
  if rows * columns > _ENTRIES:
    raise ValueError(
      f"The Jacobian has {rows} x {columns} entries; expected at most {_ENTRIES}. Use"
      " largest_singular_values, which does not form it, or a smaller batch."
    )
  matrix = np.zeros((rows, columns))
  # One call for each row or column, whichever are fewer. Not under jax.vmap, where jaxlib 0.10
  # on CPU gets the gradient of batch normalisation wrong; nor in a compiled loop, where
  # convolutions' gradients are slow.
  if rows <= columns:
    for row in range(rows):
      matrix[row] = _row(function, _unit_vector(row, output), x, arguments)
  else:
    for column in range(columns):
      matrix[:, column] = _column(function, _unit_vector(column, flat), x, arguments)
  return matrix


def _unit_vector(place: int, like: Any) -> np.ndarray:
  vector = np.zeros(like.shape, like.dtype)
  vector[place] = 1
  return vector


@functools.partial(jax.jit, static_argnums=0)
def _row(function, cotangent, x, arguments):
  flat, call = _on_vectors(function, x, arguments)
  return jax.vjp(call, flat)[1](cotangent)[0]


@functools.partial(jax.jit, static_argnums=0)
def _column(function, tangent, x, arguments):
  flat, call = _on_vectors(function, x, arguments)
  return jax.jvp(call, (flat,), (tangent,))[1]


def _on_vectors(function, x, arguments):
  """x as a vector, and the function from and to vectors."""
  flat, unravel = ravel_pytree(x)
  return flat, lambda vector: ravel_pytree(function(unravel(vector), *arguments))[0]


def singular_values(function: Callable[..., Any], x: Any, *arguments: Any) -> np.ndarray:
  """All singular values of a function's Jacobian, from the dense matrix.

  Args:
    function: ``function(x, *arguments)``, as in `jacobian`.
    x: where.
    *arguments: further arguments, pytrees of arrays.

  Returns:
    A float64 array [min(outputs, inputs)], largest first. Errors are those of the
    derivatives, about 1e-7 of the largest value for float32.

  Raises:
    ValueError: the matrix would have more than 2^28 entries.

  Reference:
    MacDonald et al. (arXiv 2210.05371).

  Example:
    >>> singular_values(lambda x: x * jnp.array([1.0, 3.0, 2.0]), jnp.zeros(3))
    array([3., 2., 1.])
  """
  matrix = jacobian(function, x, *arguments)
  short, long = sorted(matrix.shape)
  precise = any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(x))
  if precise or 8 * short > long:
    return np.linalg.svd(matrix, compute_uv=False)
  # A long matrix by its Gram matrix: in float64 that costs less than the derivatives' rounding.
  gram = matrix @ matrix.T if matrix.shape[0] == short else matrix.T @ matrix
  return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


@dataclasses.dataclass(frozen=True, eq=False)
class LargestSingularValues:
  """What `largest_singular_values` returns.

  Attributes:
    values: the k largest, largest first.
    errors: for each, a bound on its distance to a singular value of the Jacobian.
    products: how many products with the Jacobian or its transpose it took.
  """

  values: np.ndarray
  errors: np.ndarray
  products: int


def largest_singular_values(
  function: Callable[[Any], Any],
  x: Any,
  k: int = 6,
  *,
  tolerance: float = 1e-4,
  max_steps: int | None = None,
  key: jax.Array | None = None,
) -> LargestSingularValues:
  """The largest singular values of a Jacobian that is never formed.

  Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation, begun with k random
  directions, so that values which occur several times are found as often, as those of a layer
  that acts on every example of a batch alike: each step is one `jax.jvp` and one `jax.vjp`.
  The smallest singular values do not come out of it: they need the dense matrix,
  `singular_values`.

  Args:
    function: of one array or pytree of float arrays, to the same.
    x: where.
    k: how many.
    tolerance: ends the iteration once all errors are below this times the largest value.
    max_steps: ends it at the latest, with errors above the tolerance; by default 100 + 20 k.
    key: of the random start; that of seed 0 by default.

  Returns:
    `LargestSingularValues`.

  Raises:
    ValueError: k is not between 1 and the smaller dimension.

  Reference:
    Golub & Kahan, Calculating the singular values and pseudo-inverse of a matrix
    (1965); Golub, Luk & Overton, A block Lanczos method for computing the singular values
    and corresponding singular vectors of a matrix (1981).

  Example:
    >>> scales = jnp.arange(1.0, 1001.0)
    >>> found = largest_singular_values(lambda x: scales * x, jnp.zeros(1000), k=2)
    >>> found.values.round(1)
    array([1000.,  999.])
  """
  flat, call = _on_vectors(function, x, ())
  output, pushed = jax.linearize(call, flat)
  transpose = jax.linear_transpose(pushed, flat)
  smaller = min(flat.size, output.size)
  if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= smaller:
    raise ValueError(f"k={k!r}; expected an integer from 1 to {smaller}, the smaller dimension.")
  push, pull = jax.jit(pushed), jax.jit(lambda u: transpose(u)[0])
  seed = jax.random.key(0) if key is None else key
  rng = np.random.default_rng(np.asarray(jax.random.key_data(seed), np.uint32))
  process = _Bidiagonalisation(
    lambda v: np.asarray(push(jnp.asarray(v, flat.dtype)), np.float64),
    lambda u: np.asarray(pull(jnp.asarray(u, output.dtype)), np.float64),
    (output.size, flat.size),
    rng,
    float(jnp.finfo(flat.dtype).eps),
    k,
  )
  steps = min(smaller, 20 * k + 100 if max_steps is None else max(max_steps, k))
  for step in range(1, steps + 1):
    process.step()
    if step >= k and (step % max(4, k) == 0 or step == steps):
      values, errors = process.estimates(k)
      if step == steps or np.all(errors <= tolerance * values[0]):
        break
  return LargestSingularValues(values, errors, 2 * step + k)


class _Bidiagonalisation:
  """``A V = U B`` with B banded, extended by a column at a time.

  V is ahead of U by as many columns as it began with.
  """

  def __init__(
    self, multiply, transposed, shape: tuple[int, int], rng, precision: float, ahead: int
  ):
    rows, columns = shape
    self._multiply, self._transposed, self._rng = multiply, transposed, rng
    self._precision, self._scale = precision, 0.0
    self._left, self._right = _Basis(rows), _Basis(columns)
    self._images: list[np.ndarray] = []  # coefficients in V of the columns of A^T U
    for _ in range(ahead):
      # From the row space: outside of it is nothing to be found.
      self._extend(self._right, transposed(rng.standard_normal(rows)))

  def step(self):
    image = self._multiply(self._right[self._left.size])
    self._extend(self._left, image)
    image = self._transposed(self._left[self._left.size - 1])
    self._extend(self._right, image)
    self._images.append(self._right.coefficients(image))

  def estimates(self, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and their errors, the norms of what the left vectors' images have outside of V."""
    steps = self._left.size
    images = np.zeros([steps, self._right.size])
    for row, image in zip(images, self._images, strict=True):
      row[: image.size] = image
    left, values, _ = np.linalg.svd(images[:, :steps])
    outside = np.linalg.norm(left[:, :k].T @ images[:, steps:], axis=1)
    rounding = self._precision * values[0] * math.sqrt(len(values))
    return values[:k], outside + rounding

  def _extend(self, basis: "_Basis", vector: np.ndarray) -> None:
    """Adds the direction of a vector, as far as it is new.

    Where nothing of it is, the space is invariant, and a random direction goes on.
    """
    self._scale = max(self._scale, float(np.linalg.norm(vector)))
    new = basis.orthogonal(vector)
    length = np.linalg.norm(new)
    if length <= 10 * self._precision * self._scale or not length:
      if basis.size == len(vector):
        return
      new = basis.orthogonal(self._rng.standard_normal(len(vector)))
    basis.add(new)


class _Basis:
  """Orthonormal vectors, as rows of an array that grows."""

  def __init__(self, dimension: int):
    self._rows, self.size = np.empty([16, dimension]), 0

  def __getitem__(self, place: int) -> np.ndarray:
    return self._rows[place]

  def coefficients(self, vector: np.ndarray) -> np.ndarray:
    return self._rows[: self.size] @ vector

  def orthogonal(self, vector: np.ndarray) -> np.ndarray:
    """What is left of a vector without its part in the basis."""
    rows = self._rows[: self.size]
    for _ in range(2):  # twice is enough
      vector = vector - rows.T @ (rows @ vector)
    return vector

  def add(self, vector: np.ndarray) -> None:
    if self.size == len(self._rows):
      self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
    self._rows[self.size] = vector / np.linalg.norm(vector)
    self.size += 1
