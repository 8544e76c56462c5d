"""Warm-up without hyper-parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.diagnostics.dynamics.checks import at_step, check_numbers
from tatnet.diagnostics.dynamics.rates import effective_learning_rates
from tatnet.diagnostics.dynamics.trees import Mask, named_flags, need_params


class WarmUpState(NamedTuple):
  """State of `warm_up`.

  Attributes:
    count: number of updates so far.
    learning_rate: of the last update; NaN before the first.
    is_over: whether the learning rate has reached its target.
    inner: state of the inner transform.
  """

  count: jax.Array
  learning_rate: jax.Array
  is_over: jax.Array
  inner: Any


def warm_up(
  learning_rate: optax.ScalarOrSchedule,
  mask: Mask,
  inner: optax.GradientTransformation | None = None,
  *,
  fraction: float = 0.25,
) -> optax.GradientTransformationExtraArgs:
  r"""Descent whose learning rate follows the critical one until it reaches its target.

  Step t has the learning rate

  .. math:: \lambda_t = \min\bigl(\lambda, \phi / \sqrt{E_{\max} E_{\min}}\bigr)

  of the current gradients and parameters. If base gradient norms stay constant, the spread
  r of the effective learning rates falls to about :math:`\sqrt{r} / 2 \phi` in each step, and
  once they are equal the learning rate grows by the factor :math:`1 + \phi^2` with every step:
  a geometric warm-up to its target, where it ends for good.

  Args:
    learning_rate: lambda; a number, or a schedule of the number of updates that starts
      at its largest value.
    mask: which parameters count, as a tree of bools or a function of the parameters
      that makes one: those that `scale_invariant` finds. All parameters are
      moved, with the same learning rate.
    inner: what makes the direction of the step from the gradients, such as
      ``optax.chain(optax.add_decayed_weights(1e-4), optax.trace(0.9))``; by default the
      gradients themselves. The effective learning rates are those of the gradients, and
      the critical rate is that of descent without momentum.
    fraction: phi, in (0, 1]. 1 is best if base norms are constant. On networks with
      convolutions it overshoots: layers with high rates turn by nearly a right angle, and their
      base norms collapse. docs/diagnostics/gallery.md has measurements.

  Returns:
    A transform of gradients into steps, sign included, whose `update` needs the parameters. The
    learning rate is in its state (`WarmUpState`).

  Raises:
    ValueError: a number out of range, a mask that does not fit, an update without parameters.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700) propose a hyper-parameter-free warm-up that
    minimises the spread. This is a reconstruction from that description.

  Example:
    >>> mask = {"a": True, "b": True}
    >>> optimizer = tatnet.diagnostics.dynamics.warm_up(0.1, mask, fraction=1.0)
    >>> params = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([1.0, 0.0])}
    >>> gradients = {"a": jnp.array([0.0, 1.0]), "b": jnp.array([0.0, 1e4])}
    >>> _, state = optimizer.update(gradients, optimizer.init(params), params)
    >>> print(state.learning_rate.round(5), bool(state.is_over))
    0.01 False
  """
  check_numbers("warm_up", learning_rate=learning_rate, fraction=fraction)
  inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)

  def init(params) -> WarmUpState:
    named_flags(mask, params)
    return WarmUpState(
      count=jnp.zeros([], jnp.int32),
      learning_rate=jnp.full([], jnp.nan, jnp.float32),
      is_over=jnp.zeros([], bool),
      inner=inner.init(params),
    )

  def update(updates, state: WarmUpState, params=None, **extra_args):
    need_params(params, "warm_up")
    target = jnp.asarray(at_step(learning_rate, state.count), jnp.float32)
    reached = fraction * effective_learning_rates(params, updates, mask).critical
    is_over = state.is_over | (reached >= target)
    rate = jnp.where(is_over, target, reached).astype(jnp.float32)
    directions, new = inner.update(updates, state.inner, params, **extra_args)
    steps = jax.tree.map(lambda d: (-rate * d).astype(d.dtype), directions)
    return steps, WarmUpState(optax.safe_increment(state.count), rate, is_over, new)

  return optax.GradientTransformationExtraArgs(init, update)
