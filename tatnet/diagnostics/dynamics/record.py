"""An Optax transform that records effective learning rates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tatnet.diagnostics.dynamics.checks import check_numbers
from tatnet.diagnostics.dynamics.rates import EffectiveRates, effective_learning_rates
from tatnet.diagnostics.dynamics.trees import Mask, named_flags, need_params


class RecordRatesState(NamedTuple):
  """State of `record_rates`.

  Attributes:
    count: number of updates so far.
    last: rates of the last update; NaN before the first.
    log: rates of the last updates, with a leading axis ``[history]``: update t is in
      row ``t % history``.
  """

  count: jax.Array
  last: EffectiveRates
  log: EffectiveRates


class RateLog(NamedTuple):
  """What `recorded_rates` reads from an optimiser's state, in NumPy arrays, in order.

  Attributes:
    steps: numbers of the updates, from 0, ``[updates]``.
    rates: effective learning rates by name, ``[updates]`` or ``[updates, layers]``.
    gradient_norms: likewise.
    weight_norms: likewise.
  """

  steps: np.ndarray
  rates: dict[str, np.ndarray]
  gradient_norms: dict[str, np.ndarray]
  weight_norms: dict[str, np.ndarray]

  @property
  def spread(self) -> np.ndarray:
    """Largest rate over the smallest, ``[updates]``."""
    columns = np.column_stack(list(self.rates.values()))
    return columns.max(1) / columns.min(1)


def record_rates(mask: Mask, history: int = 0) -> optax.GradientTransformationExtraArgs:
  """Records effective learning rates during training; updates pass unchanged.

  Goes first in an `optax.chain`, where updates are still gradients. Costs two norms per
  parameter that counts.

  Args:
    mask: which parameters count, as a tree of bools or a function of the parameters
      that makes one: those that `scale_invariant` finds.
    history: number of last updates to keep; 0 keeps the last one only.

  Returns:
    A transform whose `update` needs the parameters. Read its state with `recorded_rates`.

  Raises:
    ValueError: a negative history, a mask that does not fit, an update without parameters.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700).

  Example:
    >>> params = {"conv": {"w": jnp.array([3.0, 4.0])}, "head": {"w": jnp.ones(2)}}
    >>> mask = {"conv": {"w": True}, "head": {"w": False}}
    >>> dynamics = tatnet.diagnostics.dynamics
    >>> optimizer = optax.chain(dynamics.record_rates(mask, history=100), optax.sgd(0.1))
    >>> state = optimizer.init(params)
    >>> gradients = {"conv": {"w": jnp.array([-4.0, 3.0])}, "head": {"w": jnp.ones(2)}}
    >>> updates, state = optimizer.update(gradients, state, params)
    >>> log = dynamics.recorded_rates(state)
    >>> log.steps, log.rates
    (array([0]), {'conv/w': array([1.], dtype=float32)})
  """
  check_numbers("record_rates", history=history)

  def init(params) -> RecordRatesState:
    named_flags(mask, params)
    empty = jax.tree.map(
      lambda norm: jnp.full(norm.shape, jnp.nan, norm.dtype),
      effective_learning_rates(params, params, mask),
    )
    rows = jax.tree.map(lambda norm: jnp.full([history, *norm.shape], jnp.nan, norm.dtype), empty)
    return RecordRatesState(jnp.zeros([], jnp.int32), empty, rows)

  def update(updates, state: RecordRatesState, params=None, **extra_args):
    del extra_args
    need_params(params, "record_rates")
    last = effective_learning_rates(params, updates, mask)
    log = state.log
    if history:
      place = state.count % history
      log = jax.tree.map(lambda rows, norm: rows.at[place].set(norm), log, last)
    return updates, RecordRatesState(optax.safe_increment(state.count), last, log)

  return optax.GradientTransformationExtraArgs(init, update)


def recorded_rates(opt_state: Any) -> RateLog:
  """What `record_rates` has recorded.

  Args:
    opt_state: state of an optimiser that contains `record_rates` once.

  Returns:
    A `RateLog` of the updates that the state holds; the last alone without history.

  Raises:
    ValueError: a state without, or with more than one.

  Example:
    >>> state = tatnet.diagnostics.dynamics.record_rates(lambda p: {"w": True}).init({"w": jnp.ones(2)})
    >>> len(tatnet.diagnostics.dynamics.recorded_rates(state).steps)
    0
  """
  nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, RecordRatesState))
  states = [node for node in nodes if isinstance(node, RecordRatesState)]
  if len(states) != 1:
    raise ValueError(
      f"recorded_rates got an optimiser's state with {len(states)} states of record_rates; expected"
      " one. Put record_rates(mask, history) first in the optax.chain, and pass that chain's state."
    )
  state = jax.device_get(states[0])
  count = int(state.count)
  history = len(next(iter(state.log.weight_norms.values())))
  kept = min(count, history or 1)
  steps = np.arange(count - kept, count)
  if history:
    found = jax.tree.map(lambda rows: rows[steps % history], state.log)
  else:
    found = jax.tree.map(lambda norm: np.asarray(norm)[None][:kept], state.last)
  rates = {name: np.asarray(rate) for name, rate in found.rates.items()}
  return RateLog(steps, rates, found.gradient_norms, found.weight_norms)
