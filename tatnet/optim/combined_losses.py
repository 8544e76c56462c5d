"""Losses made of others: weighted, averaged over locations, or of several outputs."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tatnet.optim.losses import Loss, fisher_sample, hessian_root


@dataclasses.dataclass(frozen=True)
class Weighted:
  """A loss with a weight of at least 0 for each example, or for each of its locations.

  Targets are ``(targets, weights)``, with weights ``[batch]`` or ``[batch, *locations]``.
  A mask is weights of 0 and 1; a class weight is ``table[labels]``. The curvature is
  that of the weighted loss, w H: random gradients are scaled by ``sqrt(w)``.

  Attributes:
    loss: for weights of locations, one with `per_location`: those of `tatnet.optim` but
      `NegativeLogLikelihood`.

  Raises:
    TypeError: targets that are no such pair.
    ValueError: weights of another shape than the leading axes of the outputs.

  Example:
    >>> loss = tatnet.optim.Weighted(tatnet.optim.SoftmaxCrossEntropy())
    >>> labels, mask = jnp.array([0, 3]), jnp.array([1.0, 0.0])
    >>> print(loss.per_example(jnp.zeros([2, 4]), (labels, mask)).round(4))
    [1.3863 0.    ]
  """

  loss: Loss

  def per_example(self, outputs: Any, targets: Any) -> jax.Array:
    """Weighted losses of every example."""
    own, weights = _pair(targets)
    if weights.ndim == 1:
      return weights * self.loss.per_example(outputs, own)
    losses = self.per_location(outputs, targets)
    return losses.sum(tuple(range(1, losses.ndim)))

  def per_location(self, outputs: jax.Array, targets: Any) -> jax.Array:
    """Weighted losses ``[batch, *locations]``."""
    own, weights = _pair(targets)
    losses = _by_location(self.loss)(outputs, own)
    return losses * _along(weights, losses)

  def fisher_sample(self, key: jax.Array, outputs: Any, targets: Any) -> Any:
    """Gradients for drawn targets, times the roots of the weights."""
    own, weights = _pair(targets)
    return _scaled(fisher_sample(self.loss, key, outputs, own), weights)

  def hessian_root(self, outputs: Any, noise: Any, targets: Any) -> Any:
    """A square root of the Hessian times noise, times the roots of the weights."""
    own, weights = _pair(targets)
    return _scaled(hessian_root(self.loss, outputs, noise, own), weights)


@dataclasses.dataclass(frozen=True)
class MeanOverLocations:
  """A loss whose locations are averaged instead of summed.

  Attributes:
    loss: one with `per_location`.

  Raises:
    TypeError: a loss without it.

  Example:
    >>> loss = tatnet.optim.MeanOverLocations(tatnet.optim.SoftmaxCrossEntropy())
    >>> print(loss.per_example(jnp.zeros([1, 8, 8, 4]), jnp.zeros([1, 8, 8], int)).round(4))
    [1.3863]
  """

  loss: Loss

  def per_example(self, outputs: jax.Array, targets: Any) -> jax.Array:
    """Mean losses of every example."""
    losses = self.per_location(outputs, targets)
    return losses.sum(tuple(range(1, losses.ndim)))

  def per_location(self, outputs: jax.Array, targets: Any) -> jax.Array:
    """Parts of the mean, ``[batch, *locations]``."""
    losses = _by_location(self.loss)(outputs, targets)
    return losses / math.prod(losses.shape[1:])

  def fisher_sample(self, key: jax.Array, outputs: jax.Array, targets: Any) -> jax.Array:
    """Gradients for drawn targets, divided by the root of the number of locations."""
    return fisher_sample(self.loss, key, outputs, targets) * self._scale(outputs, targets)

  def hessian_root(self, outputs: jax.Array, noise: jax.Array, targets: Any) -> jax.Array:
    """A square root of the Hessian times noise, divided by the same root."""
    return hessian_root(self.loss, outputs, noise, targets) * self._scale(outputs, targets)

  def _scale(self, outputs: jax.Array, targets: Any) -> float:
    shape = jax.eval_shape(_by_location(self.loss), outputs, targets).shape
    return 1 / math.sqrt(math.prod(shape[1:]))


@dataclasses.dataclass(frozen=True)
class Joint:
  """The sum of losses of several outputs, which are drawn independently.

  Attributes:
    losses: a tuple or a dictionary like the network's outputs, with None for an auxiliary
      output that has no loss. Targets are laid out alike; None where there is no loss.

  Raises:
    TypeError: outputs or targets that are laid out otherwise.

  Example:
    >>> loss = tatnet.optim.Joint(
    ...   (tatnet.optim.SoftmaxCrossEntropy(), tatnet.optim.SquaredError(), None)
    ... )
    >>> outputs = jnp.zeros([1, 4]), jnp.ones([1, 1]), jnp.ones([1, 7])
    >>> print(loss.per_example(outputs, (jnp.array([2]), jnp.zeros([1, 1]), None)).round(4))
    [1.8863]
  """

  losses: Any

  def per_example(self, outputs: Any, targets: Any) -> jax.Array:
    """Summed losses of every example."""
    own = self._parts(outputs, targets).values()
    return sum(loss.per_example(out, y) for loss, out, y in own if loss is not None)

  def fisher_sample(self, key: jax.Array, outputs: Any, targets: Any) -> Any:
    """Gradients for drawn targets, zeros for auxiliary outputs."""
    parts = self._parts(outputs, targets)
    keys = jax.random.split(key, len(parts))
    return self._like(
      {
        name: jax.tree.map(jnp.zeros_like, out)
        if loss is None
        else fisher_sample(loss, key, out, y)
        for key, (name, (loss, out, y)) in zip(keys, parts.items(), strict=True)
      }
    )

  def hessian_root(self, outputs: Any, noise: Any, targets: Any) -> Any:
    """A square root of the Hessian, which is block diagonal, times noise."""
    parts = self._parts(outputs, targets)
    noises = _named(noise)
    return self._like(
      {
        name: jax.tree.map(jnp.zeros_like, out)
        if loss is None
        else hessian_root(loss, out, noises[name], y)
        for name, (loss, out, y) in parts.items()
      }
    )

  def _parts(self, outputs: Any, targets: Any) -> dict[Any, tuple[Any, Any, Any]]:
    losses, outputs_by_name, by_name = (_named(t) for t in (self.losses, outputs, targets))
    if not set(losses) == set(outputs_by_name) == set(by_name):
      raise TypeError(
        f"Joint of the losses {list(losses)} got outputs {list(outputs_by_name)} and targets"
        f" {list(by_name)}; expected the same names, or as many entries of a tuple."
      )
    return {name: (losses[name], outputs_by_name[name], by_name[name]) for name in losses}

  def _like(self, parts: Mapping[Any, Any]) -> Any:
    if isinstance(self.losses, Mapping):
      return {name: parts[name] for name in self.losses}
    return tuple(parts.values())


def _named(parts: Any) -> dict[Any, Any]:
  if isinstance(parts, Mapping):
    return dict(parts)
  if isinstance(parts, tuple | list):
    return dict(enumerate(parts))
  raise TypeError(f"Joint got {type(parts).__name__}; expected a tuple or a dictionary.")


def _pair(targets: Any) -> tuple[Any, jax.Array]:
  if not (isinstance(targets, tuple | list) and len(targets) == 2):
    raise TypeError(
      f"Weighted got targets {jax.tree.structure(targets)}; expected (targets, weights)."
    )
  return targets[0], jnp.asarray(targets[1])


def _by_location(loss: Loss) -> Callable[[jax.Array, Any], jax.Array]:
  found = getattr(loss, "per_location", None)
  if found is None:
    raise TypeError(
      f"{type(loss).__name__} has one loss for each example; expected a method per_location(outputs,"
      " targets) -> [batch, *locations]."
    )
  return found


def _along(weights: jax.Array, x: jax.Array) -> jax.Array:
  """Weights of the leading axes of x, to be multiplied with it."""
  if x.shape[: weights.ndim] != weights.shape:
    raise ValueError(
      f"Weighted got weights of shape {weights.shape} for {x.shape}; expected its leading axes."
    )
  return weights.reshape(*weights.shape, *(1 for _ in range(x.ndim - weights.ndim)))


def _scaled(gradients: Any, weights: jax.Array) -> Any:
  return jax.tree.map(lambda g: g * _along(jnp.sqrt(weights), g).astype(g.dtype), gradients)
