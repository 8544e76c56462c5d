"""K-FAC whose learning rate, momentum and damping come from a quadratic model of the loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.alias import are_weights
from tatnet.optim.averages import trace_of
from tatnet.optim.batch_model import BatchModel
from tatnet.optim.blocks import Uncovered, checked_limit, covered_blocks
from tatnet.optim.factors import Factors
from tatnet.optim.groups import Group, grouped
from tatnet.optim.kfac import scale_by_kfac
from tatnet.optim.layers import as_layers
from tatnet.optim.penalty import Penalty
from tatnet.optim.quadratic import (
  Quadratic,
  adapted_damping,
  combination,
  dot,
  inner_products,
  minimizer,
)
from tatnet.optim.settings import (
  FOUND_IF_NONE,
  INTERVAL,
  MOMENTUM,
  NOT_NEGATIVE,
  check_settings,
  value_of,
)
from tatnet.optim.state import ScaleByKfacState, check_state

# Of the trace of the curvature: where the damping starts. Its largest eigenvalue is some
# ten times that.
_FIRST_DAMPING = 3e-3
# Where it ends at the latest. The model of a batch is good on that batch at any damping;
# with next to none, every step fits its batch and little else.
_LOWEST_DAMPING = 1e-7
# A last step that is to be made longer is so for one batch.
_LARGEST_MOMENTUM = 1.0
# A step that raises the loss by as much as the model expected it to fall is not taken.
_WORST_RATIO = -1.0
_LARGEST_RISE = 0.1  # of the loss, where the model expects one
_AFTER_A_REJECTED_STEP = 4.0


class AdaptiveKfacState(NamedTuple):
  """State of `adaptive_kfac`; all numbers but the first two are arrays of one number.

  Attributes:
    kfac: of the preconditioner, with the averages and inverses.
    step: the last one taken, like the parameters.
    learning_rate: of the last update.
    momentum: of the last update; what the last step is multiplied by.
    damping: for the next update; 0 before the first.
    reduction_ratio: the change of the loss over the change that the model expected, on
      the batch of the last update. Near 1 the model is good.
    expected_change: of the loss, by the model.
    loss_change: of the loss of the same batch.
    gradient_norm: Euclidean, weight decay included.
    step_norm: Euclidean length of the step taken.
    rejected: number of steps that were not taken, because the loss would have risen far
      beyond what the model expected, or was no number.
  """

  kfac: ScaleByKfacState
  step: Any
  learning_rate: jax.Array
  momentum: jax.Array
  damping: jax.Array
  reduction_ratio: jax.Array
  expected_change: jax.Array
  loss_change: jax.Array
  gradient_norm: jax.Array
  step_norm: jax.Array
  rejected: jax.Array


def adaptive_kfac(
  learning_rate: optax.ScalarOrSchedule | None = None,
  momentum: float | None = None,
  *,
  damping: optax.ScalarOrSchedule | None = None,
  decay: float = 0.95,
  factors_every: int = 1,
  inverse_every: int = 5,
  adapt_every: int = 5,
  burn_in: int = 10,
  weight_decay: float = 0.0,
  weight_decay_mask: Any = None,
  uncovered: Uncovered = "error",
  dense_up_to: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""K-FAC with nothing to tune: it finds learning rate, momentum and damping itself.

  Every update behind the burn-in does this:

  1. The gradient g becomes :math:`v_1 = F^{-1} g`, with the inverses of `scale_by_kfac`;
     :math:`v_2` is the last step.
  2. On the batch, the loss after a step :math:`w_1 v_1 + w_2 v_2` is about
     :math:`L + b^T w + \tfrac12 w^T (A + \lambda D) w`, with the exact curvature C of
     the batch in :math:`A_{ij} = v_i^T C v_j`, and :math:`b_i = g^T v_i`,
     :math:`D_{ij} = v_i^T v_j`. Its minimum with :math:`|w_2| \le 1` gives the learning
     rate :math:`-w_1` and the momentum :math:`w_2`.
  3. The loss of the same batch after the step, over the change that the model expected
     without damping, is the reduction ratio. Where it is below -1 (the loss rises by
     more than it was to fall) or no number, the step is not taken, and the damping
     grows by 4.
  4. On every `adapt_every`-th update the damping shrinks by :math:`0.9^5` where the
     ratio is above 3/4, and grows by as much where it is below 1/4. It stays above
     :math:`10^{-7}` of the curvature's trace: with less, a step fits its batch and no more.

  The damping starts as a fixed part of the curvature's trace, so that the scale of the
  loss does not matter. Each of the three may be fixed instead.

  Args:
    learning_rate: a number or a schedule; None to find it.
    momentum: None to find it; 0 for none.
    damping: a number or a schedule; None to find it.
    decay: of the averages of the factors.
    factors_every: updates from one refresh of the factors to the next.
    inverse_every: updates from one inversion to the next.
    adapt_every: updates from one change of the damping to the next.
    burn_in: number of first updates that only collect factors.
    weight_decay: half of it times the squared weights is part of the loss that is
      minimised: of gradient, curvature and ratio.
    weight_decay_mask: as in `optax.add_decayed_weights`; None decays weights and
      not biases, scales and offsets.
    uncovered: "error", or "identity" for parameters that are not of a known layer.
    dense_up_to: see `scale_by_kfac`.
    mesh: devices to spread the inversions over.

  Returns:
    A transform whose `update` takes ``params`` and, from `value_grad_and_factors`,
    ``factors=`` and ``model=``. Its state is an `AdaptiveKfacState`.

  Raises:
    ValueError: a number out of range, or parameters that are not covered.
    TypeError: a setting of another kind; `update` without parameters, factors or model.

  Reference:
    Martens & Grosse (arXiv 1503.05671), Sections 6.4, 6.5 and 7.

  Example:
    >>> network = hk.transform(lambda x: hk.nets.MLP([32, 3])(x))
    >>> x, y = jax.random.normal(jax.random.key(0), [64, 4]), jnp.arange(64) % 3
    >>> params = network.init(jax.random.key(0), x)
    >>> evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SoftmaxCrossEntropy())
    >>> optimizer = tatnet.adaptive_kfac(burn_in=2)
    >>> @jax.jit
    ... def step(params, state, key):
    ...   result = evaluate(params, x, y, key=key)
    ...   updates, state = optimizer.update(
    ...     result.gradients, state, params, factors=result.factors, model=result.model
    ...   )
    ...   return optax.apply_updates(params, updates), state, result.loss
    >>> state, losses = optimizer.init(params), []
    >>> for key in jax.random.split(jax.random.key(1), 20):
    ...   params, state, loss = step(params, state, key)
    ...   losses.append(float(loss))
    >>> losses[-1] < losses[0] / 2
    True
  """
  check_settings(
    {
      "learning_rate": (learning_rate, FOUND_IF_NONE),
      "momentum": (momentum, MOMENTUM),
      "damping": (damping, FOUND_IF_NONE),
      "adapt_every": (adapt_every, INTERVAL),
      "weight_decay": (weight_decay, NOT_NEGATIVE),
    }
  )
  # A damping always comes with the update.
  precondition = scale_by_kfac(
    1.0,
    decay,
    factors_every,
    inverse_every,
    burn_in=burn_in,
    uncovered=uncovered,
    dense_up_to=dense_up_to,
    mesh=mesh,
  )

  penalty = Penalty(weight_decay, are_weights if weight_decay_mask is None else weight_decay_mask)

  def groups_of(params) -> dict[str, Group]:
    layers = as_layers(params).arrays
    return grouped(covered_blocks(layers, checked_limit(dense_up_to), uncovered))

  def init(params) -> AdaptiveKfacState:
    def number(value=0.0):  # each an array of its own, so that a step may donate them
      return jnp.full([], value, jnp.float32)

    return AdaptiveKfacState(
      kfac=precondition.init(params),
      step=optax.tree.zeros_like(params),
      learning_rate=number(),
      momentum=number(),
      damping=number(),
      reduction_ratio=number(1.0),
      expected_change=number(),
      loss_change=number(),
      gradient_norm=number(),
      step_norm=number(),
      rejected=jnp.zeros([], jnp.int32),
    )

  def update(
    updates,
    state: AdaptiveKfacState,
    params=None,
    *,
    factors: Factors,
    model: BatchModel,
    **extra_args,
  ):
    del extra_args
    check_state(state, AdaptiveKfacState)
    _check_model(params, model)
    count = state.kfac.count
    decayed = penalty.of(params)
    gradients = jax.tree.map(jnp.add, updates, decayed) if weight_decay else updates
    known = state.damping > 0
    lam = state.damping if damping is None else jnp.asarray(value_of(damping, count))

    def of_inverses(trace: jax.Array) -> jax.Array:
      first = _FIRST_DAMPING * trace
      return weight_decay + (jnp.where(known, lam, first) if damping is None else lam)

    direction, kfac = precondition.update(
      gradients, state.kfac, factors=factors, damping=of_inverses
    )
    if damping is None:
      lam = jnp.where(known, lam, kfac.damping - weight_decay)
    directions = (direction, state.step)
    products = inner_products(*directions, gradients)
    quadratic = Quadratic(
      slopes=products[:2, 2],
      curvature=model.curvature_products(*directions) + penalty.products(*directions),
      lengths=products[:2, :2],
    )
    rate = None if learning_rate is None else -value_of(learning_rate, count)
    coefficients = minimizer(quadratic, lam, (rate, momentum))
    if momentum is None:
      bounded = jnp.clip(coefficients[1], -_LARGEST_MOMENTUM, _LARGEST_MOMENTUM)
      best = minimizer(quadratic, lam, (rate, bounded))
      coefficients = jnp.where(coefficients[1] == bounded, coefficients, best)
    step = combination(coefficients, directions)
    expected = quadratic.change(coefficients)
    change = model.loss_at(optax.apply_updates(params, step)) - model.loss
    if weight_decay:
      change += dot(decayed, step) + penalty.products(step)[0, 0] / 2

    # A change smaller than this is of rounding errors.
    noise = 10 * jnp.finfo(jnp.float32).eps * jnp.abs(model.loss)
    ratio = jnp.where(jnp.abs(expected) > noise, change / expected, 1.0)
    # Rates that are given may make a step of which the model itself expects a rise.
    rise = jnp.where(expected < 0, _WORST_RATIO * expected, _LARGEST_RISE * jnp.abs(model.loss))
    is_good = change <= rise + noise  # not where it is no number
    is_taken = kfac.moves & is_good
    if damping is None:
      is_turn = (count - burn_in + 1) % adapt_every == 0
      lowest = _LOWEST_DAMPING * trace_of(groups_of(params), kfac.curvature)
      adapted = jnp.where(is_turn, adapted_damping(lam, ratio, lowest=lowest), lam)
      adapted = jnp.where(is_good, adapted, lam * _AFTER_A_REJECTED_STEP)
      lam = jnp.where(kfac.moves, adapted, state.damping)

    def chosen(new, otherwise):
      return jax.tree.map(lambda a, b: jnp.where(is_taken, a, b).astype(a.dtype), new, otherwise)

    taken = chosen(step, optax.tree.zeros_like(step))
    numbers_now = {
      "learning_rate": -coefficients[0],
      "momentum": coefficients[1],
      "damping": lam,
      "reduction_ratio": ratio,
      "expected_change": expected,
      "loss_change": change,
      "gradient_norm": jnp.sqrt(products[2, 2]),
      "step_norm": jnp.where(is_taken, jnp.sqrt(coefficients @ products[:2, :2] @ coefficients), 0),
    }
    return taken, AdaptiveKfacState(
      kfac=kfac,
      step=chosen(step, state.step),
      rejected=state.rejected + (kfac.moves & ~is_good),
      **{name: value.astype(jnp.float32) for name, value in numbers_now.items()},
    )

  return optax.GradientTransformationExtraArgs(init, update)


def _check_model(params: Any, model: Any) -> None:
  if not isinstance(model, BatchModel):
    raise TypeError(
      f"update got model={type(model).__name__}; expected what a function made by"
      " tatnet.value_grad_and_factors returns as .model."
    )
  if params is None:
    raise TypeError("update got no parameters; expected update(gradients, state, params, ...).")
