"""Losses that know their curvature: each is the negative log-likelihood of a distribution.

K-FAC needs of a loss, besides its value, random gradients with respect to the
network's outputs whose covariance is the loss's curvature there: those of targets
drawn from the network's own predictions (Fisher), or random vectors through a
square root of the output Hessian (Gauss-Newton).
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax


class Loss(Protocol):
  """What `value_grad_and_factors` asks of a loss.

  Outputs are what the network returns: an array, or a tree of arrays, batch first. The
  two samples may have a last argument ``targets``, for curvature that depends on them.
  Each needs only what is asked for: `fisher_sample` for curvature="fisher",
  `hessian_root` for "gauss-newton", neither for "empirical".
  """

  def per_example(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses ``[batch]`` of outputs ``[batch, ...]``."""

  def fisher_sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
    """Gradients with respect to the outputs, for targets drawn from the predictions."""

  def hessian_root(self, outputs: jax.Array, noise: jax.Array) -> jax.Array:
    """A square root of the Hessian with respect to the outputs, times noise of their shape."""


def fisher_sample(loss: Loss, key: jax.Array, outputs: Any, targets: Any) -> Any:
  """The loss's sample, with its targets if it takes them; raises as `check_curvature`."""
  check_curvature(loss, "fisher_sample")
  return loss.fisher_sample(key, outputs, **_targets(loss.fisher_sample, targets))


def hessian_root(loss: Loss, outputs: Any, noise: Any, targets: Any) -> Any:
  """The loss's root times noise, with its targets if it takes them; raises likewise."""
  check_curvature(loss, "hessian_root")
  return loss.hessian_root(outputs, noise, **_targets(loss.hessian_root, targets))


def _targets(method: Callable, targets: Any) -> dict[str, Any]:
  return {"targets": targets} if "targets" in inspect.signature(method).parameters else {}


def check_curvature(loss: Loss, method: str) -> None:
  """Raises unless the curvature can be that of the loss.

  A class that changes the loss and inherits the rest has another loss's curvature:
  weights or a mean would be missing from it without a word.
  """
  if not callable(getattr(loss, method, None)):
    raise TypeError(
      f"{type(loss).__name__} has no method {method}; expected one, or another curvature."
    )
  kinds = type(loss).__mro__
  changed = next((k for k in kinds if {"per_example", "per_location"} & vars(k).keys()), None)
  inherited = next((k for k in kinds if method in vars(k)), None)
  if changed is inherited or changed is None or inherited is None:
    return
  if issubclass(changed, inherited):
    raise TypeError(
      f"{changed.__name__} has a loss of its own and the {method} of {inherited.__name__}, whose"
      f" curvature is another one. Expected a {method} of its own; for weights, masks and means"
      " there are tatnet.optim.Weighted and tatnet.optim.MeanOverLocations."
    )


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
    return _over_locations(self.per_location(outputs, targets))

  def per_location(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses ``[batch, *locations]``."""
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
    return optax.softmax_cross_entropy(outputs, targets)

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
    return _over_locations(self.per_location(outputs, targets))

  def per_location(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every output."""
    _check_same_shape(self, outputs, targets)
    return jnp.square(outputs - targets) / 2

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
    return _over_locations(self.per_location(outputs, targets))

  def per_location(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Losses of every output."""
    _check_same_shape(self, outputs, targets)
    return optax.sigmoid_binary_cross_entropy(outputs, targets)

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
    sample: ``(key, outputs) -> targets``, all of them drawn from the predictions.

  Raises:
    ValueError: a sample with a part that is not drawn.

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
    self._check_sample(key, outputs)
    targets = jax.lax.stop_gradient(self.sample(key, outputs))
    return jax.grad(lambda outputs: self.per_example(outputs, targets).sum())(outputs)

  def _check_sample(self, key: jax.Array, outputs: jax.Array) -> None:
    """Raises if a part of the targets is not drawn: weights there do not reach the curvature."""
    closed, shapes = jax.make_jaxpr(self.sample, return_shape=True)(key, outputs)
    drawn = {id(closed.jaxpr.invars[0])}
    for equation in closed.jaxpr.eqns:
      if any(id(atom) in drawn for atom in equation.invars):
        drawn |= {id(var) for var in equation.outvars}
    fixed = [
      jax.tree_util.keystr(path)
      for (path, _), var in zip(
        jax.tree.leaves_with_path(shapes), closed.jaxpr.outvars, strict=True
      )
      if id(var) not in drawn
    ]
    if fixed:
      raise ValueError(
        f"NegativeLogLikelihood: sample does not draw {', '.join(fixed)} of its targets. A loss with"
        " weights is no likelihood; expected tatnet.optim.Weighted(NegativeLogLikelihood(...)), with"
        " targets (targets, weights)."
      )

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
