"""Curvature statistics of one batch, and whether they are those of an optimiser's layers."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tatnet.optim.blocks import Block, Uncovered


class Factors(NamedTuple):
  """Curvature statistics of one batch.

  Attributes:
    weight: 1, or 0 where the pass was asked to leave them out. Factors of several
      batches may be averaged; the optimiser divides by the averaged weight.
    layers: for each layer its second moments by name: "inputs" and "outputs" of
      layers and embeddings, or their diagonals, "scale" and "offset" of normalisations.
  """

  weight: jax.Array
  layers: dict[str, dict[str, jax.Array]]


def mean_factors(*factors: Factors) -> Factors:
  """Factors of several batches as one, for gradients that are accumulated.

  Args:
    *factors: of each batch.

  Returns:
    Their mean, for one ``update(..., factors=...)``.

  Example:
    >>> one = tatnet.optim.Factors(jnp.ones(()), {"layer": {"scale": jnp.array([2.0])}})
    >>> print(tatnet.optim.mean_factors(one, one).layers["layer"]["scale"])
    [2.]
  """
  return jax.tree.map(lambda *parts: sum(parts) / len(parts), *factors)


def checked(
  factors: Factors,
  layers: Mapping[str, Block],
  gradients: Mapping[str, Any],
  elsewhere: Collection[str],
  uncovered: Uncovered,
) -> Factors:
  """The factors of what is trained; raises unless they are those of the gradients' layers."""
  if not isinstance(factors, Factors):
    raise TypeError(
      f"update got factors={type(factors).__name__}; expected what a function made by"
      " tatnet.value_grad_and_factors returns as .factors."
    )
  problems, own, is_limit = [], {}, False
  for name, given in factors.layers.items():
    if name in layers:
      own[name] = layers[name].own(given)
    elif name not in gradients and not any(f"{name}/".startswith(f"{p}/") for p in elsewhere):
      problems.append(f"{name}: not a layer of the parameters")
  for name, block in layers.items():
    given = {key: tuple(a.shape) for key, a in own.get(name, {}).items()}
    if not given and uncovered == "error":
      problems.append(f"{name}: no factors")
    elif given and given != block.statistics():
      problems.append(f"{name}: factors of shapes {given}, expected {block.statistics()}")
      is_limit |= given.keys() == block.statistics().keys()
  if problems:
    listed = "\n".join(f"  {problem}" for problem in problems)
    remedy = "\nExpected the same dense_up_to in value_grad_and_factors." if is_limit else ""
    raise ValueError(f"The factors are of another model:\n{listed}{remedy}")
  return factors._replace(layers=own)


def dtype_of(params) -> jnp.dtype:
  """Factors have the precision of the parameters, and at least 32 bits."""
  leaves = jax.tree.leaves(params)
  for leaf in leaves:
    if not hasattr(leaf, "dtype"):
      raise TypeError(
        f"The parameters hold {leaf!r}; expected arrays only. Of a model of Equinox these are"
        " eqx.filter(model, eqx.is_inexact_array)."
      )
  return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves))
