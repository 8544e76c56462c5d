r"""The quadratic model of a loss along a few directions, and the step that minimises it.

With directions :math:`v_i`, gradient g and curvature C, the loss after the step
:math:`\sum_i w_i v_i` is about :math:`L + w^T b + \tfrac12 w^T A w`, where
:math:`b_i = g^T v_i` and :math:`A_{ij} = v_i^T C v_j`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Quadratic(NamedTuple):
  """A quadratic model along two directions.

  Attributes:
    slopes: b, ``[2]``.
    curvature: A, ``[2, 2]``, without damping.
    lengths: ``v_i^T v_j``, ``[2, 2]``, which the damping multiplies.
  """

  slopes: jax.Array
  curvature: jax.Array
  lengths: jax.Array

  def change(self, coefficients: jax.Array) -> jax.Array:
    """The change of the loss that the model expects of coefficients w, without damping."""
    return coefficients @ self.slopes + coefficients @ self.curvature @ coefficients / 2


def inner_products(*trees: Any) -> jax.Array:
  """All inner products of trees, ``[k, k]``, in at least 32 bits.

  Example:
    >>> from tatnet.optim.quadratic import inner_products
    >>> print(inner_products({"w": jnp.array([1.0, 2])}, {"w": jnp.array([0.0, 3])}))
    [[5. 6.]
     [6. 9.]]
  """
  count = len(trees)
  pairs = [(i, j) for i in range(count) for j in range(i + 1)]
  values = _sums_of_products(trees, pairs)
  found = dict(zip(pairs, values, strict=True))
  rows = [[found[max(i, j), min(i, j)] for j in range(count)] for i in range(count)]
  return jnp.array(rows)


def dot(a: Any, b: Any) -> jax.Array:
  """Inner product of two trees in at least 32 bits; of none, 0.

  Example:
    >>> from tatnet.optim.quadratic import dot
    >>> print(dot({"w": jnp.array([1.0, 2])}, {"w": jnp.array([0.0, 3])}))
    6.0
  """
  return _sums_of_products((a, b), [(0, 1)])[0]


def _sums_of_products(trees: Sequence[Any], pairs: Sequence[tuple[int, int]]) -> jax.Array:
  """Inner products of some pairs of trees.

  Leaf by leaf, where it lies: one product of all leaves would copy them first. Leaves of
  one shape have the same kernel, which is compiled once.
  """
  sums = [jnp.zeros(len(pairs))]
  for leaves in zip(*map(jax.tree.leaves, trees), strict=True):
    wide = jnp.result_type(jnp.float32, *leaves)
    leaves = [leaf.astype(wide) for leaf in leaves]
    sums.append(jnp.stack([jnp.sum(leaves[i] * leaves[j]) for i, j in pairs]))
  # Behind a barrier, or each kernel would add up what the one before has found.
  return jnp.stack(jax.lax.optimization_barrier(sums)).sum(0)


def minimizer(
  model: Quadratic,
  damping: jax.Array,
  fixed: tuple[jax.Array | None, jax.Array | None] = (None, None),
) -> jax.Array:
  r"""The coefficients that minimise a damped model.

  With :math:`M = A + \lambda D`, both free: :math:`w = -M^{-1} b`; one given:
  :math:`w_i = -(b_i + M_{ij} w_j) / M_{ii}`. A direction of length 0 has the coefficient
  0; of two that are parallel, the second has.

  Args:
    model: the slopes, the curvature and the lengths D of two directions.
    damping: lambda.
    fixed: coefficients that are given, None for free ones.

  Returns:
    w, ``[2]``.

  Reference:
    Martens & Grosse (arXiv 1503.05671), Sections 6.4 and 7.

  Example:
    >>> from tatnet.optim.quadratic import Quadratic, minimizer
    >>> model = Quadratic(jnp.array([-2.0, 3.0]), jnp.diag(jnp.array([1.0, 2])), jnp.eye(2))
    >>> print(minimizer(model, 1.0).round(5), minimizer(model, 0.0, (None, 0.5)).round(5))
    [ 1. -1.] [2.  0.5]
  """
  first, second = fixed
  damped = model.curvature + damping * model.lengths
  # An output Hessian with negative eigenvalues (of a loss that is not convex in the
  # outputs) must not turn a step uphill.
  diagonal = jnp.maximum(jnp.diagonal(damped), damping * jnp.diagonal(model.lengths))
  is_there = diagonal > 0
  # In units in which both directions have curvature 1.
  unit = jnp.where(is_there, jax.lax.rsqrt(jnp.where(is_there, diagonal, 1.0)), 0.0)
  cosine = jnp.clip(damped[0, 1] * unit[0] * unit[1], -1.0, 1.0)
  b = model.slopes * unit
  if first is not None and second is not None:
    return jnp.stack(jnp.broadcast_arrays(first, second)).astype(b.dtype)
  if first is not None:
    w = jnp.asarray(first, b.dtype)
    # Without a last step there is no momentum.
    return jnp.stack([w, -unit[1] * (b[1] + _coupling(damped, unit[1]) * w)])
  if second is not None:
    w = jnp.where(is_there[1], jnp.asarray(second, b.dtype), 0.0)
    return jnp.stack([-unit[0] * (b[0] + _coupling(damped, unit[0]) * w), w])
  rest = 1 - jnp.square(cosine)
  are_apart = rest > 1e3 * jnp.finfo(b.dtype).eps
  safe = jnp.where(are_apart, rest, 1.0)
  both = -jnp.stack([b[0] - cosine * b[1], b[1] - cosine * b[0]]) / safe
  return unit * jnp.where(are_apart, both, jnp.stack([-b[0], jnp.zeros_like(b[0])]))


def _coupling(damped: jax.Array, unit: jax.Array) -> jax.Array:
  return damped[0, 1] * unit


def combination(coefficients: jax.Array, directions: tuple[Any, Any]) -> Any:
  """``w_1 v_1 + w_2 v_2``, leaf by leaf in their own dtypes.

  Example:
    >>> from tatnet.optim.quadratic import combination
    >>> print(combination(jnp.array([2.0, 3]), ({"w": jnp.ones(1)}, {"w": jnp.ones(1)})))
    {'w': Array([5.], dtype=float32)}
  """

  def of_leaves(a, b):
    w = coefficients.astype(jnp.promote_types(a.dtype, jnp.float32))
    return (w[0] * a + w[1] * b).astype(a.dtype)

  return jax.tree.map(of_leaves, *directions)


def adapted_damping(
  damping: jax.Array,
  ratio: jax.Array,
  factor: float = 0.9**5,
  *,
  lowest: float = 1e-8,
) -> jax.Array:
  r"""The Levenberg-Marquardt rule: less damping where the model is good, more where it is not.

  Args:
    damping: lambda.
    ratio: the change of the loss over the change that the model expected.
    factor: by which lambda shrinks where the ratio is above 3/4, and by whose inverse
      it grows where the ratio is below 1/4 or no number.
    lowest: bound on lambda.

  Returns:
    The new lambda.

  Reference:
    Martens & Grosse (arXiv 1503.05671), Section 6.5.

  Example:
    >>> from tatnet.optim.quadratic import adapted_damping
    >>> ratios = jnp.array([0.9, 0.5, 0.1, jnp.nan])
    >>> print(jax.vmap(lambda ratio: adapted_damping(1.0, ratio, 0.5))(ratios))
    [0.5 1.  2.  2. ]
  """
  grown = jnp.where(ratio > 0.75, damping * factor, damping)
  return jnp.maximum(jnp.where(ratio >= 0.25, grown, damping / factor), lowest)
