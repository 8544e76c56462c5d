"""Scaled uniform orthogonal weights, with Delta initialisation for convolutions."""

import collections
import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg


def scaled_uniform_orthogonal(
  key: jax.Array,
  shape: Sequence[int],
  dtype: jnp.dtype = jnp.float32,
  *,
  scale: float = 1.0,
  delta: bool = True,
) -> jax.Array:
  """A Haar-uniform orthogonal matrix, scaled so that a layer keeps q values.

  A matrix ``[inputs, outputs]`` has orthonormal rows or columns times
  ``max(sqrt(outputs / inputs), 1)``: q is kept exactly where inputs <= outputs and
  in expectation otherwise. A convolution kernel ``[..., inputs, outputs]`` gets
  the matrix at its centre tap and zeros elsewhere (Delta initialisation), so that
  at initialisation every location is a fully connected net of its own.

  Args:
    key: a JAX random key.
    shape: ``[inputs, outputs]``, or ``[*window, inputs, outputs]``. For a grouped
      convolution inputs are those of one group; q is then kept in expectation.
    dtype: float dtype of the result; the matrix is drawn in at least float32.
    scale: factor on the weights. DKS and TAT need 1; EOC gives its `weight_scale`.
    delta: False to make the whole kernel, flattened to a matrix, orthogonal.

  Returns:
    An array of the given shape and dtype.

  Raises:
    ValueError: fewer than two dimensions, a dimension below 1, a scale that is not
      positive, or an even window with `delta`, which has no centre.
    TypeError: a dtype that is not a float.

  Reference:
    Deep Kernel Shaping (arXiv 2110.01765), parameter distributions.

  Example:
    >>> w = tatnet.scaled_uniform_orthogonal(jax.random.key(0), (3, 3, 16, 64))
    >>> bool(jnp.allclose(w[1, 1] @ w[1, 1].T, 4 * jnp.eye(16), atol=1e-5))
    True
  """
  shape = tuple(shape) if isinstance(shape, Sequence) else (shape,)
  if len(shape) < 2 or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape):
    raise ValueError(
      f"scaled_uniform_orthogonal got shape={shape}; expected [inputs, outputs] or [*window,"
      " inputs, outputs] with positive sizes. Biases start at zero instead."
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"scaled_uniform_orthogonal got dtype={dtype}; expected a float dtype. Haiku gives weights the"
      " dtype of a layer's inputs: convert images of integers first."
    )
  if not (isinstance(scale, numbers.Real) and math.isfinite(scale) and scale > 0):
    raise ValueError(f"scaled_uniform_orthogonal got scale={scale!r}; expected a positive number.")
  if delta and any(size % 2 == 0 for size in shape[:-2]):
    raise ValueError(
      f"scaled_uniform_orthogonal got the window {shape[:-2]} (shape {shape}); expected odd"
      " sizes, since Delta initialisation fills the centre tap and an even window has none. Use"
      " an odd window, or delta=False."
    )
  wide = jnp.promote_types(dtype, jnp.float32)
  normals = jax.random.normal(key, _tall_shape(shape, delta), wide)
  return _kernel(_haar_orthogonal(normals), shape, dtype, scale, delta)


def _matrix_shape(shape: Sequence[int], delta: bool) -> tuple[int, int]:
  """Inputs and outputs of the orthogonal matrix in a kernel."""
  *window, inputs, outputs = shape
  return (inputs if delta else inputs * math.prod(window)), outputs


def _tall_shape(shape: Sequence[int], delta: bool) -> tuple[int, int]:
  """Shape of that matrix, its longer side first."""
  inputs, outputs = _matrix_shape(shape, delta)
  return max(inputs, outputs), min(inputs, outputs)


def _kernel(matrix: jax.Array, shape: Sequence[int], dtype, scale: float, delta: bool) -> jax.Array:
  """The kernel, from a tall matrix of orthonormal columns."""
  window, (inputs, outputs) = shape[:-2], _matrix_shape(shape, delta)
  gain = scale * max(math.sqrt(outputs / inputs), 1.0)
  matrix = (gain * (matrix.T if inputs < outputs else matrix)).astype(dtype)
  if not delta or not window:
    return matrix.reshape(shape)
  return jnp.pad(
    matrix[*[None] * len(window)], [*[(n // 2, n // 2) for n in window], (0, 0), (0, 0)]
  )


# Under vmap one matrix after the other: jaxlib 0.10 on two cores hangs when a
# program factorises two stacks of matrices at once.
@jax.custom_batching.sequential_vmap
def _haar_orthogonal(normals: jax.Array) -> jax.Array:
  """Q of a Gaussian matrix Q R where R has a positive diagonal: then its law is Haar's."""
  if _by_cholesky(*normals.shape):
    moment = jnp.matmul(normals.T, normals, precision="highest")
    lower = jax.lax.linalg.cholesky(moment, symmetrize_input=False)  # R transposed
    return jax.scipy.linalg.solve_triangular(lower, normals.T, lower=True).T
  q, _ = jnp.linalg.qr(normals)
  diagonal = jnp.sum(q * normals, axis=0)  # of R; without R itself, the program compiles faster
  return jnp.where(diagonal < 0, -q, q)


def _by_cholesky(rows: int, columns: int) -> bool:
  """Whether Cholesky of the second moment does, which runs several times faster than QR.

  A Gaussian matrix with twice as many rows as columns is well conditioned: its singular
  values lie between 0.29 and 1.71 times the square root of its rows. With few columns
  they may stray, and there is less to gain than one more program costs to compile.
  """
  return rows >= 2 * columns and columns >= 256


def _padded_orthogonal(normals: jax.Array, rows: jax.Array) -> jax.Array:
  """Of the first rows of a matrix; zeros in the others."""
  inside = jnp.arange(len(normals)) < rows
  return _haar_orthogonal(jnp.where(inside[:, None], normals, 0.0))


class _Stack(NamedTuple):
  """Which weights are made in one loop, and the shape of them all, padded with rows."""

  members: list[int]
  shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class ScaledUniformOrthogonal:
  """Initialiser form of `scaled_uniform_orthogonal`, for Haiku, Flax and Equinox.

  Haiku calls ``init(shape, dtype)`` inside `hk.transform`; Flax, and whoever sets the
  weights of Equinox, ``init(key, shape, dtype)``. Equinox keeps weights the other way
  round, ``[outputs, inputs, *window]``.

  Attributes:
    scale: factor on the weights; 1 for DKS and TAT.
    delta: whether convolution kernels are zero but for their centre tap.

  Example:
    >>> def forward(x):
    ...   return hk.Linear(64, w_init=tatnet.ScaledUniformOrthogonal())(x)
    >>> params = hk.transform(forward).init(jax.random.key(0), jnp.ones([8, 16]))
    >>> params["linear"]["w"].shape
    (16, 64)
    >>> tatnet.ScaledUniformOrthogonal()(jax.random.key(0), (16, 64)).shape
    (16, 64)
  """

  scale: float = 1.0
  delta: bool = True

  def __call__(self, *arguments, dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Draws a weight.

    Args:
      *arguments: ``(shape, dtype)`` inside `hk.transform`, or ``(key, shape, dtype)``;
        the dtype may be left out.
      dtype: of the weight, where it is given by name.

    Raises:
      ValueError, TypeError: as `scaled_uniform_orthogonal`.
    """
    first, *rest = arguments
    if isinstance(first, jax.Array):
      key, (shape, *rest) = first, rest
    else:
      import haiku as hk  # the core works without Haiku

      key, shape = hk.next_rng_key(), first
    return scaled_uniform_orthogonal(
      key, shape, rest[0] if rest else dtype, scale=self.scale, delta=self.delta
    )

  def num_normals(self, weights: Sequence[jax.ShapeDtypeStruct]) -> int:
    """How many normal numbers `from_normals` takes."""
    return sum(math.prod(stack.shape) for stack in self._stacks(weights))

  def from_normals(
    self, normals: jax.Array, weights: Sequence[jax.ShapeDtypeStruct]
  ) -> list[jax.Array]:
    """Weights made of given normal numbers, so that a network draws them all at once.

    Matrices of as many columns, and made in the same way, are made in one loop, whatever
    their rows: compiling a factorisation for every shape takes longer than running it.
    """
    found: dict[int, jax.Array] = {}
    for stack in self._stacks(weights):
      size = math.prod(stack.shape)
      own, normals = normals[:size].reshape(stack.shape), normals[size:]
      rows = [_tall_shape(weights[i].shape, self.delta)[0] for i in stack.members]
      factors = jax.lax.map(lambda pair: _padded_orthogonal(*pair), (own, jnp.array(rows)))
      for i, n, factor in zip(stack.members, rows, factors, strict=True):
        found[i] = _kernel(factor[:n], weights[i].shape, weights[i].dtype, self.scale, self.delta)
    return [found[i] for i in range(len(weights))]

  def _stacks(self, weights: Sequence[jax.ShapeDtypeStruct]) -> list[_Stack]:
    groups = collections.defaultdict(list)
    for i, weight in enumerate(weights):
      rows, columns = _tall_shape(weight.shape, self.delta)
      groups[columns, _by_cholesky(rows, columns)].append((i, rows))
    return [
      _Stack([i for i, _ in members], (len(members), max(n for _, n in members), columns))
      for (columns, _), members in groups.items()
    ]
