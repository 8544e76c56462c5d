"""The state of K-FAC, and how it is read."""

from typing import Any, NamedTuple

import jax
import optax

from tatnet.optim.blocks import blocks_of, checked_limit
from tatnet.optim.groups import grouped, members
from tatnet.optim.layers import as_layers


class ScaleByKfacState(NamedTuple):
  """State of `scale_by_kfac`.

  Attributes:
    count: number of updates so far, those of the burn-in included.
    batches: number of batches whose factors the averages hold.
    skipped: number of refreshes that were left out because factors or inverses were
      not finite.
    skipped_updates: number of updates that were left out, because the gradient was not
      finite.
    moves: whether the last update moved the parameters: not in the burn-in, and not
      where the gradient was not finite.
    factors_due: whether the next update wants factors; see `factors_due`.
    damping: that of the inverses, and of all that is divided.
    curvature: averages and inverses, packed (`tatnet.optim.symmetric`), by layer;
      layers of one shape share arrays with a leading axis, under the name of the
      first and the number of the others (`curvature_by_layer` takes them apart).
  """

  count: jax.Array
  batches: jax.Array
  skipped: jax.Array
  skipped_updates: jax.Array
  moves: jax.Array
  factors_due: jax.Array
  damping: jax.Array
  curvature: dict[str, dict[str, jax.Array]]


def check_state(state: Any, kind: type) -> None:
  """Raises TypeError unless the state is of a kind: a checkpointer may have made dictionaries of it."""
  if not isinstance(state, kind):
    raise TypeError(
      f"update got a state of the type {type(state).__name__}; expected {kind.__name__}, as init"
      " makes it. What restores a checkpoint needs the structure: jax.eval_shape(optimizer.init, params)."
    )


def factors_due(opt_state: Any) -> jax.Array:
  """Whether the next update of an optimiser wants factors.

  Args:
    opt_state: state of an optimiser that contains `scale_by_kfac` once.

  Returns:
    A bool array, for ``value_grad_and_factors(...)(..., refresh=...)``.

  Raises:
    ValueError: the optimiser does not contain `scale_by_kfac`.

  Example:
    >>> state = tatnet.kfac(1e-3, factors_every=10).init({"l": {"w": jnp.ones([2, 2])}})
    >>> bool(tatnet.optim.factors_due(state))
    True
  """
  due = optax.tree.get(opt_state, "factors_due")
  if due is None:
    raise ValueError("factors_due got the state of an optimiser without scale_by_kfac.")
  return due


def curvature_by_layer(
  opt_state: Any, params: Any, *, dense_up_to: int | None = None
) -> dict[str, dict[str, jax.Array]]:
  """Averages and inverses of every layer, also of those that are kept together.

  Args:
    opt_state: state of an optimiser that contains `scale_by_kfac` once.
    params: what its `init` was given.
    dense_up_to: what the optimiser was given.

  Returns:
    For each layer its arrays by side, as in `ScaleByKfacState.curvature`.

  Raises:
    ValueError: the state is not of these parameters.

  Example:
    >>> params = {name: {"w": jnp.ones([2, 2])} for name in ("one", "two")}
    >>> state = tatnet.kfac(1e-3).init(params)
    >>> {key: value["inputs"].shape for key, value in state[0].curvature.items()}
    {'one and 1 like it': (2, 2, 3)}
    >>> found = tatnet.optim.curvature_by_layer(state, params)
    >>> {name: arrays["inputs"].shape for name, arrays in found.items()}
    {'one': (2, 3), 'two': (2, 3)}
  """
  curvature = optax.tree.get(opt_state, "curvature")
  groups = grouped(blocks_of(as_layers(params).arrays, checked_limit(dense_up_to))[0])
  if curvature is None or set(curvature) != set(groups):
    raise ValueError(
      f"The state has the curvature of {sorted(curvature or {})}, the parameters have layers"
      f" {sorted(groups)}; expected the parameters that the optimiser's init was given."
    )
  return members(groups, curvature)
