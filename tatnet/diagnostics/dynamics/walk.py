"""Random walks of scale-invariant weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tatnet.diagnostics.dynamics.checks import learning_rates


class Walk(NamedTuple):
  """What `random_walk` returns: every step's values before the weights move.

  Attributes:
    weight_norms: ``[steps, layers]``.
    gradient_norms: ``[steps, layers]``.
    rates: effective learning rates ``[steps, layers]``.
  """

  weight_norms: jax.Array
  gradient_norms: jax.Array
  rates: jax.Array


def random_walk(
  key: jax.Array,
  sizes: Sequence[int],
  base_norms: Any,
  learning_rate: optax.ScalarOrSchedule | np.ndarray,
  steps: int,
  *,
  deviations: Any = 1.0,
  momentum: float = 0.0,
  weight_decay: float = 0.0,
) -> Walk:
  r"""Gradient descent on scale-invariant weights whose gradients have random directions.

  Every layer starts at :math:`W \sim N(0, s^2)` and takes steps

  .. math::
     g = \frac{c}{\|W\|} \frac{v_\perp}{\|v_\perp\|}, \qquad
     m \to \mu m + g + w W, \qquad W \to W - \lambda m,

  where :math:`v_\perp` is the part of :math:`v \sim N(0, I)` that is orthogonal to W. Such
  gradients have all that scale invariance demands of them, and constant base norms c.

  Args:
    key: a JAX random key.
    sizes: number of weights of each layer, each at least 2.
    base_norms: c, ``[layers]`` or one number: `EffectiveRates.base_norms` of a network.
    learning_rate: lambda: a number, a schedule of the step, or an array ``[steps]``.
    steps: number of steps.
    deviations: s, ``[layers]`` or one number.
    momentum: mu, in [0, 1).
    weight_decay: w, in the gradient.

  Returns:
    A `Walk`.

  Raises:
    ValueError: numbers out of range, or lengths that disagree.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), Algorithm 1 "Random Walk",
    reconstructed from its description.

  Example:
    >>> walk = tatnet.diagnostics.dynamics.random_walk(
    ...   jax.random.key(0), [100, 200], [1.0, 100.0], 10.0, 500
    ... )
    >>> ratio = walk.rates[:, 1] / walk.rates[:, 0]
    >>> walk.rates.shape, bool(ratio[0] > 20), bool(0.8 < ratio[-1] < 1.25)
    ((500, 2), True, True)
  """
  descent = {"momentum": momentum, "weight_decay": weight_decay}
  lams = learning_rates("random_walk", learning_rate, steps, **descent)
  if not sizes or min(sizes) < 2:
    raise ValueError(
      f"random_walk got sizes={tuple(sizes)}; expected at least one layer, of at least 2 weights: a"
      " single weight has no direction to move in."
    )
  norms = _per_layer(base_norms, len(sizes), "base_norms")
  scales = _per_layer(deviations, len(sizes), "deviations")
  # Layers are rows, padded with zeros to the same length.
  is_weight = np.arange(max(sizes)) < np.array(sizes)[:, None]
  return _walk(key, is_weight, norms[:, None], scales[:, None], lams, **descent)


@jax.jit
def _walk(key, is_weight, norms, scales, lams, momentum, weight_decay):
  keys = jax.random.split(key, len(lams) + 1)

  def normals(key):
    return jax.random.normal(key, is_weight.shape) * is_weight

  def step(state, given):
    weights, buffer = state
    lam, key = given
    square = jnp.sum(jnp.square(weights), -1, keepdims=True)
    v = normals(key)
    v -= jnp.sum(v * weights, -1, keepdims=True) / square * weights
    size = norms / jnp.sqrt(square)
    g = size * v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    buffer = momentum * buffer + g + weight_decay * weights
    found = Walk(jnp.sqrt(square)[:, 0], size[:, 0], (size / jnp.sqrt(square))[:, 0])
    return (weights - lam * buffer, buffer), found

  start = scales * normals(keys[0])
  return jax.lax.scan(step, (start, jnp.zeros_like(start)), (lams, keys[1:]))[1]


def _per_layer(values: Any, layers: int, name: str) -> jax.Array:
  """Numbers of layers as an array ``[layers]``."""
  array = np.asarray(list(values.values()) if isinstance(values, dict) else values, float)
  if array.shape not in ((), (layers,)) or not (array > 0).all():
    raise ValueError(
      f"random_walk got {name}={values!r} for {layers} layers; expected a positive number, or one"
      " for each layer."
    )
  return jnp.broadcast_to(jnp.asarray(array), [layers])
