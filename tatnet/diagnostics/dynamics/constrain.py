"""Training with one effective learning rate for all layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.diagnostics.dynamics.checks import at_step, check_numbers
from tatnet.diagnostics.dynamics.trees import Mask, layer_norm, mapped, named_flags, need_params


class ConstrainRatesState(NamedTuple):
  """State of `constrain_rates`.

  Attributes:
    count: number of updates so far.
    inner: state of the inner transform.
  """

  count: jax.Array
  inner: Any


def constrain_rates(
  rate: optax.ScalarOrSchedule,
  learning_rate: optax.ScalarOrSchedule,
  mask: Mask,
  inner: optax.GradientTransformation | None = None,
  *,
  renormalize: bool = True,
) -> optax.GradientTransformationExtraArgs:
  r"""Descent with learning rates that give every layer the same effective learning rate.

  Scale-invariant layers get learning rates of their own,

  .. math:: \lambda_\ell = \eta \|W_\ell\| / \|g_\ell\|,

  so that :math:`\lambda_\ell E_\ell = \eta` and each step turns each layer by the angle
  :math:`\arctan \eta`. Other parameters are moved with the ordinary learning rate.

  Args:
    rate: eta, the common rate; a number or a schedule of the number of updates.
    learning_rate: of the parameters that the mask leaves out; likewise.
    mask: which parameters count, as a tree of bools or a function of the parameters
      that makes one: those that `scale_invariant` finds.
    inner: what makes the direction of the step from the gradients, as in `warm_up`; by
      default the gradients themselves. With momentum mu the steps add up: where gradients
      of successive steps point in independent directions, as they do when noise rules,
      the angles are :math:`1 / \sqrt{1 - \mu^2}` times as large; where they agree, up to
      :math:`1 / (1 - \mu)` times; both for eta well below :math:`1 - \mu`.
    renormalize: whether layers keep their norm, which otherwise grows by the factor
      :math:`\sqrt{1 + \eta^2}` in every step, beyond all bounds. This does not change what the
      network computes. Steps must then be applied as they are: nothing that
      changes them may follow.

  Returns:
    A transform of gradients into steps, sign included, whose `update` needs the parameters. A
    layer with a gradient of 0 is not moved.

  Raises:
    ValueError: a number out of range, a mask that does not fit, an update without parameters.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), "constrained ELR training" and "uniform
    effective learning rates". This is a reconstruction from
    that description, akin to LARS (You et al., arXiv 1708.03888).

  Example:
    >>> mask = {"a": True, "b": True, "head": False}
    >>> optimizer = tatnet.diagnostics.dynamics.constrain_rates(0.1, 1.0, mask, renormalize=False)
    >>> params = {name: jnp.array([2.0, 0.0]) for name in mask}
    >>> gradients = {name: jnp.array([0.0, size]) for name, size in zip(mask, [1.0, 1e4, 3.0])}
    >>> steps, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> {name: round(float(step[1]), 5) for name, step in steps.items()}
    {'a': -0.2, 'b': -0.2, 'head': -3.0}
  """
  check_numbers("constrain_rates", rate=rate, learning_rate=learning_rate)
  inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)

  def init(params) -> ConstrainRatesState:
    named_flags(mask, params)
    return ConstrainRatesState(jnp.zeros([], jnp.int32), inner.init(params))

  def update(updates, state: ConstrainRatesState, params=None, **extra_args):
    need_params(params, "constrain_rates")
    flags = named_flags(mask, params)
    common = at_step(rate, state.count)
    ordinary = at_step(learning_rate, state.count)

    def invariant_step(name, direction, gradient, weight):
      norm = layer_norm(name, gradient, keepdims=True)
      size = layer_norm(name, weight, keepdims=True)
      # The direction first: the quotient of the norms alone may overflow.
      turn = jnp.where(norm > 0, direction / jnp.where(norm > 0, norm, 1), 0)
      step = -common * size * turn
      if renormalize:
        moved = weight + step
        step = moved * (size / layer_norm(name, moved, keepdims=True)) - weight
      return step.astype(direction.dtype)

    directions, new = inner.update(updates, state.inner, params, **extra_args)
    others = {name: not flag for name, flag in flags.items()}
    steps = mapped(invariant_step, flags, directions, updates, params)
    steps = mapped(lambda _, d: (-ordinary * d).astype(d.dtype), others, steps)
    return steps, ConstrainRatesState(optax.safe_increment(state.count), new)

  return optax.GradientTransformationExtraArgs(init, update)
