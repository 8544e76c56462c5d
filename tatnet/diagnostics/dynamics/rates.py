"""Effective learning rates of scale-invariant parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.diagnostics.dynamics.trees import Mask, layer_norm, named_flags, selected


class EffectiveRates(NamedTuple):
  """Norms of gradients and weights layer by layer, and the effective learning rates.

  A pytree of arrays. Values are scalars, or ``[layers]`` for layers that
  `hk.layer_stack` has stacked.

  Attributes:
    gradient_norms: for each parameter, by the name ``"module/w"``.
    weight_norms: likewise.
  """

  gradient_norms: dict[str, jax.Array]
  weight_norms: dict[str, jax.Array]

  @property
  def rates(self) -> dict[str, jax.Array]:
    r""":math:`E = \|g\| / \|W\|`, per unit of learning rate; 0 where the gradient is 0."""
    return {
      name: jnp.where(norm == 0, 0.0, norm / self.weight_norms[name])
      for name, norm in self.gradient_norms.items()
    }

  @property
  def base_norms(self) -> dict[str, jax.Array]:
    r""":math:`c = \|g\| \|W\|`, the gradient's norm at weights of norm 1."""
    return {name: norm * self.weight_norms[name] for name, norm in self.gradient_norms.items()}

  @property
  def vector(self) -> jax.Array:
    """The rates ``[layers]``, in the order of the names."""
    return jnp.concatenate([jnp.ravel(rate) for rate in self.rates.values()])

  @property
  def spread(self) -> jax.Array:
    """Largest rate over the smallest; infinite if a layer has no gradient."""
    return jnp.max(self.vector) / jnp.min(self.vector)

  @property
  def log10_spread(self) -> jax.Array:
    """Decimal logarithm of the spread."""
    return (jnp.log(jnp.max(self.vector)) - jnp.log(jnp.min(self.vector))) / jnp.log(10.0)

  @property
  def log_std(self) -> jax.Array:
    """The spread of all layers, as the standard deviation of the rates' natural logarithms."""
    return jnp.std(jnp.log(self.vector))

  @property
  def critical(self) -> jax.Array:
    """The critical learning rate; see `critical_learning_rate`."""
    return critical_learning_rate(self)


Rates = EffectiveRates | Mapping[str, Any] | Any


def effective_learning_rates(
  params: Any, gradients: Any, mask: Mask | None = None
) -> EffectiveRates:
  r"""Effective learning rates of a network's layers.

  For weights W whose scale the loss ignores, with gradient g,

  .. math:: E = \|g\| / \|W\| = c / \|W\|^2,

  where c is the norm of the gradient at :math:`W / \|W\|`. A step of gradient descent
  with learning rate :math:`\lambda` turns W by the angle :math:`\arctan(\lambda E)`.

  Args:
    params: parameters, ``{module: {name: array}}`` or any tree of arrays.
    gradients: of the loss, like `params`.
    mask: which parameters count, as a tree of bools like `params` or a function that
      makes one of them: those that `scale_invariant` finds. By default all: then
      pass none but scale-invariant parameters.

  Returns:
    An `EffectiveRates`, with `rates`, `spread`, `log10_spread`, `log_std` and
    `critical`. Runs under `jax.jit`, with a mask made outside.

  Raises:
    ValueError: a mask or gradients that are not like the parameters, or an empty mask.
    TypeError: a mask that is not of bools.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700). The spread is max/min; the paper
    may use one of the two others.

  Example:
    >>> params = {"conv": {"w": jnp.array([3.0, 4.0])}, "deep": {"w": jnp.array([0.0, 2.0])}}
    >>> gradients = {"conv": {"w": jnp.array([-0.4, 0.3])}, "deep": {"w": jnp.array([20.0, 0.0])}}
    >>> found = tatnet.diagnostics.dynamics.effective_learning_rates(params, gradients)
    >>> {name: round(float(rate), 6) for name, rate in found.rates.items()}
    {'conv/w': 0.1, 'deep/w': 10.0}
    >>> round(float(found.spread), 4), round(float(found.critical), 4)
    (100.0, 1.0)
  """
  flags = named_flags(mask, params)
  weights = selected(params, flags, "parameters")
  slopes = selected(gradients, flags, "gradients")
  for name, weight in weights.items():
    if weight.shape != slopes[name].shape:
      raise ValueError(
        f"The gradient of {name!r} has shape {slopes[name].shape}, the parameter {weight.shape};"
        " expected the same. Pass the gradients of these parameters."
      )
  return EffectiveRates(
    {name: layer_norm(name, slope) for name, slope in slopes.items()},
    {name: layer_norm(name, weight) for name, weight in weights.items()},
  )


def critical_learning_rate(rates: Rates) -> jax.Array:
  r"""The learning rate that brings the extreme effective learning rates together.

  One step of gradient descent turns a rate E into :math:`E / (1 + \lambda^2 E^2)`. This
  is the same for two layers if

  .. math:: \lambda = 1 / \sqrt{E_{\max} E_{\min}}.

  Smaller learning rates keep the layers' order and reduce the spread; larger ones turn
  the order round, the more so the larger they are. Layers without gradient do not
  count, nor do those of infinite rate.

  Args:
    rates: an `EffectiveRates`, a mapping to rates, or an array ``[layers]``.

  Returns:
    A scalar array; infinite if no layer counts.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700): a critical rate that "only depends on
    current ELRs". The formula is a reconstruction: exact for two layers, and for more
    the best for the two extremes.

  Example:
    >>> print(tatnet.diagnostics.dynamics.critical_learning_rate(jnp.array([1e-2, 1.0, 1.0])))
    10.0
  """
  _, vector = named_vector(rates, jnp)
  logs = jnp.log(vector)
  counts = jnp.isfinite(logs)
  largest = jnp.max(jnp.where(counts, logs, -jnp.inf))
  smallest = jnp.min(jnp.where(counts, logs, jnp.inf))
  return jnp.where(counts.any(), jnp.exp(-(largest + smallest) / 2), jnp.inf)


def named_vector(rates: Rates, module: Any = np) -> tuple[tuple[str, ...], Any]:
  """Names of the layers, and their rates ``[layers]`` as an array of NumPy or `jax.numpy`."""
  if isinstance(rates, EffectiveRates):
    rates = rates.rates
  if not isinstance(rates, Mapping):
    vector = module.ravel(module.asarray(rates))
    return tuple(str(place) for place in range(vector.size)), vector
  names, parts = [], []
  for name, rate in rates.items():
    rate = module.asarray(rate)
    names += [name] if rate.ndim == 0 else [f"{name}[{place}]" for place in range(rate.size)]
    parts.append(module.ravel(rate))
  return tuple(names), module.concatenate(parts)
