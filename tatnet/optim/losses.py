"""Losses that know their curvature: each is the negative log-likelihood of a distribution.

K-FAC needs of a loss, besides its value, random gradients with respect to the
network's outputs whose covariance is the loss's curvature there: those of targets
drawn from the network's own predictions (Fisher), or random vectors through a
square root of the output Hessian (Gauss-Newton).
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import optax


class Loss(Protocol):
  """What `value_grad_and_factors` asks of a loss."""

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses ``[batch]`` of outputs ``[batch, ...]``."""

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Gradients with respect to the outputs, for targets drawn from the predictions."""

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """A square root of the Hessian with respect to the outputs, times noise of their shape."""


@dataclasses.dataclass(frozen=True)
class SoftmaxCrossEntropy:
  """Cross-entropy of ``[batch, ..., classes]`` logits.

  Attributes:
    label_smoothing: weight of the uniform distribution in the targets, in [0, 1).

  Targets are integer labels without the axis of classes, or distributions with it.
  Smoothing changes the loss, not its curvature.

  Raises:
    ValueError: a smoothing out of range.

  Example:
    >>> loss = tatnet.optim.SoftmaxCrossEntropy()
    >>> print(loss.per_example(jnp.zeros([2, 4]), jnp.array([0, 3])).round(4))
    [1.3863 1.3863]
  """

  label_smoothing: float = 0.0

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f"label_smoothing={self.label_smoothing!r}; expected a number in [0, 1).")

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every example, summed over its locations."""
    _check_array(self, outputs)
    classes = outputs.shape[-1]
    if jnp.issubdtype(targets.dtype, jnp.integer):
      if targets.shape != outputs.shape[:-1]:
        raise ValueError(
          f"SoftmaxCrossEntropy got integer targets of shape {targets.shape} for outputs of shape"
          f" {outputs.shape}; expected {outputs.shape[:-1]}."
        )
      targets = jax.nn.one_hot(targets, classes, dtype=outputs.dtype)
    _check_same_shape(self, outputs, targets)
    targets = optax.smooth_labels(targets, self.label_smoothing)
    return _over_locations(optax.softmax_cross_entropy(outputs, targets))

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Probabilities minus the one-hot vector of a drawn label."""
    drawn = jax.random.categorical(key, outputs)
    return jax.nn.softmax(outputs) - jax.nn.one_hot(drawn, outputs.shape[-1], dtype=outputs.dtype)

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """``B u`` with ``B = diag(sqrt(p)) - p sqrt(p)^T``, for which ``B B^T = diag(p) - p p^T``."""
    p = jax.nn.softmax(outputs)
    scaled = jnp.sqrt(p) * noise
    return scaled - p * scaled.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class SquaredError:
  """Half the squared error, summed over the outputs of an example.

  Example:
    >>> print(tatnet.optim.SquaredError().per_example(jnp.ones([1, 2]), jnp.zeros([1, 2])))
    [1.]
  """

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every example."""
    _check_same_shape(self, outputs, targets)
    return _over_locations(jnp.square(outputs - targets)) / 2

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Gaussian noise: the targets are drawn around the outputs with variance 1."""
    return jax.random.normal(key, outputs.shape, outputs.dtype)

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """The noise itself."""
    del outputs
    return noise


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy:
  """Cross-entropy of independent binary outputs, summed over those of an example.

  Example:
    >>> loss = tatnet.optim.SigmoidCrossEntropy()
    >>> print(loss.per_example(jnp.zeros([1, 2]), jnp.ones([1, 2])).round(4))
    [1.3863]
  """

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every example."""
    _check_same_shape(self, outputs, targets)
    return _over_locations(optax.sigmoid_binary_cross_entropy(outputs, targets))

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Probabilities minus drawn labels."""
    p = jax.nn.sigmoid(outputs)
    return p - jax.random.bernoulli(key, p).astype(outputs.dtype)

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """``sqrt(p (1 - p)) u``."""
    p = jax.nn.sigmoid(outputs)
    return jnp.sqrt(p * (1 - p)) * noise


@dataclasses.dataclass(frozen=True)
class NegativeLogLikelihood:
  """A loss of one's own, by the distribution of its targets.

  Attributes:
    log_prob: ``(outputs, targets) -> [batch]``, log-densities of every example.
    sample: ``(key, outputs) -> targets``, drawn from the predictions.

  Example:
    >>> poisson = tatnet.optim.NegativeLogLikelihood(
    ...   log_prob=lambda rate, n: (n * rate - jnp.exp(rate)).sum(-1),
    ...   sample=lambda key, rate: jax.random.poisson(key, jnp.exp(rate)),
    ... )
    >>> print(poisson.per_example(jnp.zeros([1, 2]), jnp.ones([1, 2])))
    [2.]
  """

  log_prob: Callable[[jax.Array, jax.Array], jax.Array]
  sample: Callable[[jax.Array, jax.Array], jax.Array]

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every example."""
    return -self.log_prob(outputs, targets)

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Gradients for targets drawn from the predictions."""
    targets = jax.lax.stop_gradient(self.sample(key, outputs))
    return jax.grad(lambda outputs: self.per_example(outputs, targets).sum())(outputs)

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """Not known for a distribution given by samples."""
    del outputs, noise
    raise ValueError(
      "curvature='gauss-newton' with NegativeLogLikelihood: a square root of its output Hessian is"
      " not known. Expected curvature='fisher', or a loss with a method hessian_root."
    )


def _check_array(loss: Loss, outputs: jax.Array) -> None:
  if not isinstance(outputs, jax.Array):
    raise TypeError(
      f"{type(loss).__name__} got outputs {jax.tree.structure(outputs)}; expected one array"
      " [batch, ...]. Several outputs need a loss for each: tatnet.optim.Joint."
    )


def _check_same_shape(loss: Loss, outputs: jax.Array, targets: jax.Array) -> None:
  _check_array(loss, outputs)
  if outputs.shape != targets.shape:
    raise ValueError(
      f"{type(loss).__name__} got targets of shape {targets.shape} for outputs of shape"
      f" {outputs.shape}; expected the same shape."
    )


def _over_locations(losses: jax.Array) -> jax.Array:
  return losses.sum(tuple(range(1, losses.ndim)))
