"""K-FAC as an Optax transform."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.blocks import Block, Uncovered, blocks_of, check_uncovered, checked_limit
from tatnet.optim.evaluate import Factors, dtype_of
from tatnet.optim.groups import grouped, members
from tatnet.optim.inverses import damped_inverses, spread_inverses
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
)

_SAME_OPTION = (
  "Pass uncovered='identity' to let their gradients pass unchanged, or give them to another"
  " optimiser by optax.partition."
)
_NOTHING_COVERED = "There is no layer for K-FAC: expected at least one that it knows."


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
      and an inverse; a larger one (a vocabulary) is kept as its diagonal. None for 8192.
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
    covered, names = blocks_of(layers, limit)
    if names and (uncovered == "error" or not covered):
      listed = "\n".join(f"  {name}" for name in names)
      remedy = _SAME_OPTION if covered else _NOTHING_COVERED
      raise ValueError(f"K-FAC does not cover these parameters:\n{listed}\n{remedy}")
    return covered

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

  # Numbers of updates that were injected as hyperparameters have the parameters' dtype.
  every, first = _whole(inverse_every), _whole(burn_in)
  refresh_every, given = _whole(factors_every), damping

  def update(
    updates, state: ScaleByKfacState, params=None, *, factors: Factors, damping=None, **extra_args
  ):
    del params, extra_args
    gradients, elsewhere, restore = as_layers(updates)
    layers = blocks(gradients)
    factors = _checked(layers, factors, gradients, elsewhere, uncovered)
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
    curvature = _absorbed(
      groups, state.curvature, factors.weight, stacks, _rate(decay, state.batches), is_used
    )
    batches = state.batches + is_used
    # The first batch that is finite is not left to wait for the next turn.
    is_turn = (after % every == 0) | (state.batches == 0)
    is_time = (after >= 0) & is_turn & (batches > 0)
    # One damping for all layers, those included that are only divided.
    lam = value_of(given, state.count) if damping is None else damping
    if callable(lam):
      lam = lam(sum(group.block.trace(curvature[key]) for key, group in groups.items()))
    lam = jnp.where(is_time, lam, state.damping).astype(state.damping.dtype)
    # A loop of no or one turn: unlike lax.cond, it does not copy the state when
    # there is nothing to do.
    curvature, is_good = jax.lax.fori_loop(
      0,
      is_time.astype(jnp.int32),
      lambda _, carry: _inverted(groups, carry[0], lam, mesh),
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


def _absorbed(groups, curvature, weight, factors, rate, is_used):
  """Averages with a batch's factors in them, where these are used.

  A choice for each number: it costs less than the copy that `lax.cond` makes.
  """
  weight = jnp.where(is_used, weight, 1.0)
  result = dict(curvature)
  for key, group in groups.items():
    new = jax.tree.map(lambda f: f / weight.astype(f.dtype), factors[key])
    moved = group.block.averaged(curvature[key], new, rate.astype(jax.tree.leaves(new)[0].dtype))
    result[key] = jax.tree.map(
      lambda new, old: jnp.where(is_used, new, old), moved, dict(curvature[key])
    )
  return result


def _inverted(groups, curvature, damping, mesh):
  """The curvature with new inverses, and whether all of these are finite."""
  requests = {key: group.block.damped(curvature[key], damping) for key, group in groups.items()}
  requests = {key: sides for key, sides in requests.items() if sides}
  if mesh is None:
    new = {key: damped_inverses(sides) for key, sides in requests.items()}
  else:
    new = spread_inverses(requests, mesh)
  result, is_finite = dict(curvature), jnp.ones([], bool)
  for key, inverted in new.items():
    result[key] = {**curvature[key], **inverted.packed}
    is_finite &= inverted.is_finite
  return result, is_finite


def _rate(decay, batches: jax.Array) -> jax.Array:
  """Weight of a new batch in the averages: 1 for the first, ``1 - decay`` in the long run."""
  # 1 - decay ** n as expm1, and the logarithm in full precision where it can be had: a
  # decay close to 1 cancels.
  log = math.log(decay) if isinstance(decay, float) and decay else jnp.log(decay)
  return (1 - decay) / -jnp.expm1((batches + 1) * log)


def _whole(number) -> jax.Array:
  return jnp.round(jnp.asarray(number, jnp.float32)).astype(jnp.int32)


def value_of(number: optax.ScalarOrSchedule, count: jax.Array):
  return number(count) if callable(number) else number


def _checked(layers, factors, gradients, elsewhere, uncovered) -> Factors:
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
