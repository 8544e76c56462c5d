"""The K-FAC optimiser with learning rate, momentum and weight decay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.blocks import Uncovered
from tatnet.optim.kfac import scale_by_kfac
from tatnet.optim.layers import places_of
from tatnet.optim.quadratic import dot
from tatnet.optim.settings import MOMENTUM, NOT_NEGATIVE, RATE, check_settings


def kfac(
  learning_rate: optax.ScalarOrSchedule,
  momentum: float | None = 0.9,
  *,
  damping: optax.ScalarOrSchedule = 1e-3,
  decay: float = 0.99,
  factors_every: int = 1,
  inverse_every: int = 50,
  norm_constraint: optax.ScalarOrSchedule | None = 1e-3,
  burn_in: int = 10,
  weight_decay: float = 0.0,
  weight_decay_mask: Any = None,
  uncovered: Uncovered = "error",
  dense_up_to: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""K-FAC with momentum.

  The step is :math:`d_t = -\eta_t p_t + \mu d_{t-1}`, with p from `scale_by_kfac`;
  the norm constraint acts on p, before momentum. Defaults are those of the TAT
  paper's released configuration, with inverses every 50 steps.

  In directions that the factors have not seen, K-FAC is gradient descent with rate
  ``learning_rate / damping``: keep that below what gradient descent bears.

  Args:
    learning_rate: eta; a number or a schedule of the number of updates.
    momentum: mu; None for none.
    damping: see `scale_by_kfac`, as the others below.
    decay: of the averages of the factors.
    factors_every: updates from one refresh of the factors to the next.
    inverse_every: updates from one inversion to the next.
    norm_constraint: on the squared norm of a step in the metric of the curvature.
    burn_in: number of first updates that only collect factors.
    weight_decay: added to p as ``weight_decay * params``, outside the curvature.
    weight_decay_mask: as in `optax.add_decayed_weights`; None decays weights and
      not biases, scales and offsets.
    uncovered: "error", or "identity" for parameters that are not of a known layer.
    dense_up_to: see `scale_by_kfac`.
    mesh: devices to spread the inversions over.

  Returns:
    A transform whose `update` takes ``factors=``.

  Raises:
    ValueError: a number out of range, or parameters that are not covered.
    TypeError: a setting of another kind.

  Reference:
    Martens & Grosse (arXiv 1503.05671); Zhang, Botev, Martens (arXiv 2203.08120).

  Example:
    >>> network = hk.transform(lambda x: hk.nets.MLP([32, 3])(x))
    >>> x, y = jax.random.normal(jax.random.key(0), [64, 4]), jnp.arange(64) % 3
    >>> params = network.init(jax.random.key(0), x)
    >>> evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SoftmaxCrossEntropy())
    >>> optimizer = tatnet.kfac(1e-2, damping=1e-2, burn_in=2)
    >>> @jax.jit
    ... def step(params, state, key):
    ...   result = evaluate(params, x, y, key=key)
    ...   updates, state = optimizer.update(
    ...     result.gradients, state, params, factors=result.factors
    ...   )
    ...   return optax.apply_updates(params, updates), state, result.loss
    >>> state, losses = optimizer.init(params), []
    >>> for key in jax.random.split(jax.random.key(1), 20):
    ...   params, state, loss = step(params, state, key)
    ...   losses.append(float(loss))
    >>> losses[-1] < losses[0]
    True
  """
  check_settings(
    {
      "learning_rate": (learning_rate, RATE),
      "momentum": (momentum, MOMENTUM),
      "weight_decay": (weight_decay, NOT_NEGATIVE),
    }
  )
  parts = [
    scale_by_kfac(
      damping,
      decay,
      factors_every,
      inverse_every,
      norm_constraint,
      burn_in,
      learning_rate=learning_rate,
      uncovered=uncovered,
      dense_up_to=dense_up_to,
      mesh=mesh,
    )
  ]
  if not (isinstance(weight_decay, float | int) and weight_decay == 0):
    mask = are_weights if weight_decay_mask is None else weight_decay_mask
    parts.append(optax.add_decayed_weights(weight_decay, mask))
  parts.append(optax.scale_by_learning_rate(learning_rate))
  if momentum is None:
    return _held(optax.chain(*parts))
  return _held(optax.chain(*parts, _watched_momentum(momentum)))


class MomentumState(NamedTuple):
  """State of K-FAC's momentum.

  Attributes:
    trace: the last step.
    slope: of the loss along it, where it started.
    start: such slopes, averaged over some ten steps.
    end: slopes along the same steps where they ended, averaged likewise.
    overshoot: ``-end / start``. Near 0, steps end where the loss does not fall further;
      above 1 the loss rises over them, as for gradient descent with too high a rate:
      ``learning_rate / damping`` is too high.
  """

  trace: Any
  slope: jax.Array
  start: jax.Array
  end: jax.Array
  overshoot: jax.Array


def _watched_momentum(momentum) -> optax.GradientTransformationExtraArgs:
  """Momentum that notes the slopes along its steps."""

  def init(params) -> MomentumState:
    numbers = (jnp.zeros([]) for _ in range(4))  # each an array of its own, to be donated
    return MomentumState(optax.tree.zeros_like(params), *numbers)

  def update(updates, state, params=None, *, gradients, **extra_args):
    del params, extra_args
    step = jax.tree.map(lambda d, last: (d + momentum * last).astype(d.dtype), updates, state.trace)
    slope, end = dot(gradients, step), dot(gradients, state.trace)
    start = 0.9 * state.start + 0.1 * state.slope
    end = 0.9 * state.end + 0.1 * end
    overshoot = jnp.where(start < 0, -end / jnp.where(start < 0, start, 1.0), 0.0)
    return step, MomentumState(step, slope, start, end, overshoot)

  return optax.GradientTransformationExtraArgs(init, update)


def _held(chain: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
  """Nothing moves, momentum included, where K-FAC does not; schedules count on."""

  def update(updates, state, params=None, **extra_args):
    steps, new = chain.update(updates, state, params, gradients=updates, **extra_args)
    moves = new[0].moves

    def chosen(new, old):
      return jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, old)

    held = [
      chosen(part, old) if isinstance(part, MomentumState) else part
      for part, old in zip(new, state, strict=True)
    ]
    return chosen(steps, optax.tree.zeros_like(steps)), tuple(held)

  return optax.GradientTransformationExtraArgs(chain.init, update)


def are_weights(params: Any) -> Any:
  """True for weights and tables, False for biases, scales, offsets and scalars.

  Args:
    params: of a model of Haiku, Flax or Equinox.

  Returns:
    A tree of bools, as a mask for Optax.

  Example:
    >>> tatnet.training.are_weights({"linear": {"w": jnp.ones([2, 2]), "b": jnp.ones(2)}})
    {'linear': {'b': False, 'w': True}}
  """
  return jax.tree.unflatten(
    jax.tree.structure(params), [place.name in ("w", "embeddings") for place in places_of(params)]
  )
