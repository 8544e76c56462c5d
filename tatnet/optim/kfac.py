"""K-FAC as an Optax transform."""

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.averages import absorbed, inverted, rate_of, trace_of
from tatnet.optim.blocks import Block, Uncovered, check_uncovered, checked_limit, covered_blocks
from tatnet.optim.factors import Factors, checked, dtype_of
from tatnet.optim.groups import grouped
from tatnet.optim.layers import as_layers
from tatnet.optim.quadratic import dot
from tatnet.optim.settings import (
  BELOW_ONE,
  CONSTRAINT,
  COUNT,
  INTERVAL,
  POSITIVE_OR_SCHEDULE,
  RATE,
  check_mesh,
  check_settings,
  value_of,
  whole,
)
from tatnet.optim.state import ScaleByKfacState, check_state


def scale_by_kfac(
  damping: optax.ScalarOrSchedule = 1e-3,
  decay: float = 0.99,
  factors_every: int = 1,
  inverse_every: int = 50,
  norm_constraint: optax.ScalarOrSchedule | None = None,
  burn_in: int = 10,
  *,
  learning_rate: optax.ScalarOrSchedule | None = None,
  uncovered: Uncovered = "error",
  dense_up_to: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Gradients times the inverse of a Kronecker-factored Fisher matrix.

  Every update does this:

  1. If the factors passed have weight and are finite, each average moves towards
     them: an exponential moving average, corrected for its start at zero.
  2. After the burn-in, on every `inverse_every`-th update, the inverses
     :math:`(A + \pi \sqrt\lambda)^{-1}` and :math:`(G + \sqrt\lambda / \pi)^{-1}` are
     made anew, with the damping of that time, which divisors have until the next one
     too. Where one is not finite, the layer keeps its last good ones.
  3. The gradient V of a layer becomes :math:`A^{-1} V G^{-1}`.
  4. All of them are scaled by
     :math:`\min(1, \sqrt{c / (\eta^2 \langle p, g \rangle)})`, with c the norm
     constraint, eta the learning rate, g the gradients and p the result of step 3.
  5. During the burn-in the update is zero: the first factors are rank deficient,
     and their inverses would send a deep network astray at once. So is the update of a
     gradient that is not finite.

  Args:
    damping: lambda, above 0; a number or a schedule.
    decay: of the averages, in [0, 1).
    factors_every: updates from one refresh of the factors to the next. On those
      between, pass factors of weight 0 (``refresh=factors_due(state)``).
    inverse_every: updates from one inversion to the next.
    norm_constraint: c; None for no constraint.
    burn_in: number of first updates that only collect factors.
    learning_rate: eta, for the norm constraint.
    uncovered: "error", or "identity" for parameters that are not of a known layer.
    dense_up_to: size of the largest side, of inputs or outputs, that has a dense moment
      and an inverse; a larger one (a vocabulary) is kept as its diagonal. None for 5120.
      Give `value_grad_and_factors` the same.
    mesh: devices to spread the inversions over.

  Returns:
    A transform whose `update` takes ``factors=``, from `value_grad_and_factors`, and
    may take ``damping=`` in the place of the one given here: a number, or a function of
    the trace of the averaged curvature.

  Raises:
    ValueError: a number out of range; a norm constraint without learning rate;
      parameters that are not covered; factors of another model.
    TypeError: a setting of another kind; `update` without factors.

  Reference:
    Martens & Grosse, Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature (arXiv 1503.05671); norm constraint: Ba, Grosse & Martens (2017).

  Example:
    >>> network = hk.transform(lambda x: hk.Linear(1)(x))
    >>> x = jax.random.normal(jax.random.key(0), [64, 3])
    >>> params = network.init(jax.random.key(0), x)
    >>> evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SquaredError())
    >>> optimizer = tatnet.scale_by_kfac(damping=1e-3, burn_in=0)
    >>> result = evaluate(params, x, x @ jnp.ones([3, 1]), key=jax.random.key(1))
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(result.gradients, state, factors=result.factors)
    >>> int(state.batches)
    1
  """
  check_settings(
    {
      "damping": (damping, POSITIVE_OR_SCHEDULE),
      "decay": (decay, BELOW_ONE),
      "factors_every": (factors_every, INTERVAL),
      "inverse_every": (inverse_every, INTERVAL),
      "norm_constraint": (norm_constraint, CONSTRAINT),
      "burn_in": (burn_in, COUNT),
      "learning_rate": (0 if learning_rate is None else learning_rate, RATE),
    }
  )
  check_uncovered(uncovered)
  check_mesh(mesh)
  limit = checked_limit(dense_up_to)
  if norm_constraint is not None and learning_rate is None:
    raise ValueError(
      f"norm_constraint={norm_constraint!r} without a learning rate: the constraint is on the step"
      " that is taken. Expected learning_rate=..., the one that follows this transform."
    )

  def blocks(layers) -> dict[str, Block]:
    return covered_blocks(layers, limit, uncovered)

  def init(params) -> ScaleByKfacState:
    dtype = dtype_of(params)
    groups = grouped(blocks(as_layers(params).arrays))
    return ScaleByKfacState(
      count=jnp.zeros([], jnp.int32),
      batches=jnp.zeros([], jnp.int32),
      skipped=jnp.zeros([], jnp.int32),
      skipped_updates=jnp.zeros([], jnp.int32),
      moves=jnp.zeros([], bool),
      factors_due=jnp.ones([], bool),
      damping=jnp.ones([], dtype),
      curvature={key: group.block.initial(dtype) for key, group in groups.items()},
    )

  every, first = whole(inverse_every), whole(burn_in)
  refresh_every, given = whole(factors_every), damping

  def update(
    updates, state: ScaleByKfacState, params=None, *, factors: Factors, damping=None, **extra_args
  ):
    del params, extra_args
    check_state(state, ScaleByKfacState)
    gradients, elsewhere, restore = as_layers(updates)
    layers = blocks(gradients)
    factors = checked(factors, layers, gradients, elsewhere, uncovered)
    groups = {
      key: group
      for key, group in grouped(layers).items()
      if any(name in factors.layers for name in group.names)
    }
    # Behind a barrier: what is stacked would be fused with all that reads it, into
    # kernels that are slow to compile.
    stacks = jax.lax.optimization_barrier(
      {key: group.gather(factors.layers) for key, group in groups.items()}
    )
    is_new = factors.weight > 0
    # One check for all of them: each by itself would be three kernels to compile.
    diagonals = [jnp.zeros(0)]
    for key, group in groups.items():
      diagonals += [d.reshape(-1) for d in group.block.diagonals(stacks[key])]
    is_finite = jnp.isfinite(jnp.concatenate(diagonals)).all()
    count, after = state.count, state.count - first

    is_used = is_new & is_finite
    curvature = absorbed(
      groups, state.curvature, factors.weight, stacks, rate_of(decay, state.batches), is_used
    )
    batches = state.batches + is_used
    # The first batch that is finite is not left to wait for the next turn.
    is_turn = (after % every == 0) | (state.batches == 0)
    is_time = (after >= 0) & is_turn & (batches > 0)
    # One damping for all layers, those included that are only divided.
    lam = value_of(given, state.count) if damping is None else damping
    if callable(lam):
      lam = lam(trace_of(groups, curvature))
    lam = jnp.where(is_time, lam, state.damping).astype(state.damping.dtype)
    # A loop of no or one turn: unlike lax.cond, it does not copy the state when
    # there is nothing to do.
    curvature, is_good = jax.lax.fori_loop(
      0,
      is_time.astype(jnp.int32),
      lambda _, carry: inverted(groups, carry[0], lam, mesh),
      (curvature, jnp.ones([], bool)),
    )
    covered = {name: gradients[name] for name in gradients if name in factors.layers}
    own = jax.lax.optimization_barrier(
      {key: group.gather_weights(covered) for key, group in groups.items()}
    )
    steps = {
      key: group.block.precondition(curvature[key], own[key], lam) for key, group in groups.items()
    }
    others = {name: gradients[name] for name in gradients if name not in factors.layers}
    product = dot(steps, own) + dot(others, others)
    scale = jnp.ones([])
    if norm_constraint is not None:
      eta = value_of(learning_rate, count)
      bound = value_of(norm_constraint, count) / (jnp.square(eta) * product)
      # A product of 0 means gradients of 0; eta of 0, a step of 0.
      scale = jnp.where(bound < 1, jnp.sqrt(jnp.maximum(bound, 0.0)), 1.0)
    is_number = jnp.isfinite(product)
    moves = (after >= 0) & (batches > 0) & is_number
    steps, result = jax.lax.optimization_barrier(
      jax.tree.map(lambda p: jnp.where(moves, scale * p, 0.0).astype(p.dtype), (steps, others))
    )
    for key, group in groups.items():
      result |= group.scatter(steps[key], covered)
    result = restore({name: result[name] for name in gradients})
    after = after + 1
    return result, ScaleByKfacState(
      count=optax.safe_increment(count),
      batches=batches,
      skipped=state.skipped + (is_new & ~is_finite) + ~is_good,
      skipped_updates=state.skipped_updates + ~is_number,
      moves=moves,
      factors_due=(after < 0) | (after % refresh_every == 0),
      damping=lam,
      curvature=curvature,
    )

  return optax.GradientTransformationExtraArgs(init, update)
