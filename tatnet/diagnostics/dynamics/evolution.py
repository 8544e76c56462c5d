"""Predicted evolution of effective learning rates."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tatnet.diagnostics.dynamics.checks import check_numbers, learning_rates
from tatnet.diagnostics.dynamics.rates import Rates, critical_learning_rate, named_vector


class Evolution(NamedTuple):
  """What `predict` returns, in float64 on the host.

  Attributes:
    names: of the layers.
    rates: effective learning rates ``[steps + 1, layers]``, those given first.
    learning_rates: of the steps, ``[steps]``.
  """

  names: tuple[str, ...]
  rates: np.ndarray
  learning_rates: np.ndarray

  @property
  def spread(self) -> np.ndarray:
    """Largest rate over the smallest, ``[steps + 1]``."""
    return self.rates.max(1) / self.rates.min(1)


def predict(
  rates: Rates,
  learning_rate: optax.ScalarOrSchedule | np.ndarray,
  steps: int,
  *,
  momentum: float = 0.0,
  weight_decay: float = 0.0,
  warm_up: float = 0.0,
) -> Evolution:
  r"""Effective learning rates under gradient descent, if base gradient norms stay constant.

  With :math:`\|g\| = c / \|W\|` and g orthogonal to W, the weights' norm obeys
  :math:`\|W\|^2 \to (1 - \lambda w)^2 \|W\|^2 + \lambda^2 c^2 / \|W\|^2`: without weight decay w

  .. math:: E_{t+1} = E_t / (1 + \lambda^2 E_t^2),

  exactly. Momentum mixes gradients that were orthogonal to earlier weights. Taken to be
  orthogonal to the buffer m too, as random directions in many dimensions are, they
  leave a closed recursion for :math:`\|W\|^2`, :math:`\langle m, W \rangle` and :math:`\|m\|^2`
  with :math:`m \to \mu m + g + w W`, :math:`W \to W - \lambda m`: heavy-ball
  momentum, with the decay in the gradient.

  Args:
    rates: of the layers now: an `EffectiveRates`, a mapping to rates, or an array ``[layers]``.
    learning_rate: lambda: a number, a schedule of the step, or an array ``[steps]``.
    steps: number of steps.
    momentum: mu, in [0, 1).
    weight_decay: w, at least 0.
    warm_up: if not 0, the learning rate of a step is at most this fraction of the critical
      one of the rates at that step, until that reaches `learning_rate`; see
      `tatnet.diagnostics.dynamics.warm_up`.

  Returns:
    An `Evolution`. For any constant learning rate the spread goes to 1.

  Raises:
    ValueError: a number out of range, or rates that are not positive.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), the case of "constant base gradients". The
    equations are derived here, not copied. On real networks base norms
    change, the more the larger the step: expect the order of things, not the numbers.

  Example:
    >>> future = tatnet.diagnostics.dynamics.predict([1e-3, 1.0, 1e3], 1.0, 10)
    >>> [round(float(spread)) for spread in future.spread[[0, 1, 10]]]
    [1000000, 500, 209]
  """
  names, start = _positive(rates, "predict")
  numbers = {"momentum": momentum, "weight_decay": weight_decay, "warm_up": warm_up}
  with jax.enable_x64(True):
    lams = learning_rates("predict", learning_rate, steps, **numbers)
    later, used = _evolve(jnp.asarray(start), lams, **numbers)
    return Evolution(names, np.concatenate([start[None], np.asarray(later)]), np.asarray(used))


@jax.jit
def _evolve(start, lams, momentum, weight_decay, warm_up):
  """Rates after each step, and the learning rates of the steps.

  In units of the base norm: the squared norm of the weights is 1/E, that of the gradient E.
  """

  def step(state, lam):
    square, overlap, buffer, is_over = state
    reached = warm_up * critical_learning_rate(1 / square)
    is_over |= reached >= lam
    lam = jnp.where(is_over, lam, reached)
    old = momentum * overlap  # of the buffer, decayed, with the weights
    buffer = momentum**2 * buffer + 1 / square + weight_decay**2 * square + 2 * weight_decay * old
    overlap = old + weight_decay * square
    square = square - 2 * lam * overlap + lam**2 * buffer
    return (square, overlap - lam * buffer, buffer, is_over), (1 / square, lam)

  zeros = jnp.zeros(start.shape)
  return jax.lax.scan(step, (1 / start, zeros, zeros, warm_up == 0), lams)[1]


def predict_flow(rates: Rates, learning_rate: float, steps: np.ndarray) -> np.ndarray:
  r"""Effective learning rates in the limit of small steps, in closed form.

  The flow :math:`d\|W\|^2 / dt = \lambda^2 c^2 / \|W\|^2` has the solution
  :math:`\|W\|^4 = \|W_0\|^4 + 2 \lambda^2 c^2 t`, hence

  .. math:: E(t) = E_0 / \sqrt{1 + 2 \lambda^2 E_0^2 t}.

  Args:
    rates: :math:`E_0`: an `EffectiveRates`, a mapping to rates, or an array ``[layers]``.
    learning_rate: lambda.
    steps: times t, ``[times]``, in steps; need not be integers.

  Returns:
    Rates ``[times, layers]``. They tend to :math:`1 / (\lambda \sqrt{2 t})`, all of them.

  Raises:
    ValueError: a number out of range.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), gradient flow.

  Example:
    >>> flow = tatnet.diagnostics.dynamics.predict_flow([1.0, 10.0], 0.1, [0, 1e2, 1e4])
    >>> print((flow[:, 1] / flow[:, 0]).round(3))
    [10.     1.222  1.002]
  """
  check_numbers("predict_flow", learning_rate=learning_rate)
  _, start = _positive(rates, "predict_flow")
  times = np.asarray(steps, float)
  if not (times >= 0).all():
    raise ValueError(f"predict_flow got steps={steps!r}; expected times of at least 0.")
  return start / np.sqrt(1 + 2 * np.square(learning_rate * start) * times[..., None])


def equilibrium_rate(learning_rate: float, weight_decay: float, momentum: float = 0.0) -> float:
  r"""The effective learning rate at which weight decay balances the growth of the weights.

  The fixed point of the recursion of `predict`, the same for all layers:

  .. math:: (\lambda E)^2 = (1 - \mu) \bigl(2 \lambda w - \lambda^2 w^2 / (1 + \mu)\bigr).

  Without momentum it is exact, and about :math:`\sqrt{2 \lambda w}`.

  Args:
    learning_rate: lambda.
    weight_decay: w, with lambda times w in (0, 1].
    momentum: mu, in [0, 1).

  Returns:
    E.

  Raises:
    ValueError: a number out of range.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), their model; derived.

  Example:
    >>> round(0.1 * tatnet.diagnostics.dynamics.equilibrium_rate(0.1, 0.01), 4)
    0.0447
  """
  numbers = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
  check_numbers("equilibrium_rate", **numbers)
  product = learning_rate * weight_decay
  if not 0 < product <= 1:
    raise ValueError(
      f"equilibrium_rate got learning_rate={learning_rate!r}, weight_decay={weight_decay!r}; expected"
      " a product in (0, 1]. Without weight decay rates fall for ever: see predict_flow."
    )
  square = (1 - momentum) * (2 * product - product**2 / (1 + momentum))
  return math.sqrt(square) / learning_rate


def _positive(rates: Rates, function: str) -> tuple[tuple[str, ...], np.ndarray]:
  """Names and rates in float64; raises ValueError unless the rates are positive."""
  names, vector = named_vector(rates)
  vector = vector.astype(np.float64)
  wrong = ~(np.isfinite(vector) & (vector > 0))
  if wrong.any() or not vector.size:
    found = {name: float(rate) for name, rate, bad in zip(names, vector, wrong, strict=True) if bad}
    raise ValueError(
      f"{function} got the effective learning rates {found or rates!r}; expected positive numbers."
      " Leave out layers without gradient or without weights."
    )
  return names, vector
