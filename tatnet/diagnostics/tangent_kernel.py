"""How fast a chain of layers trains at least: its tangent kernel and PL constants.

For layers ``f_l(theta_l, .)`` with Jacobians ``J_l`` in the input and ``D_l`` in the
parameters, and the outputs F of the chain on a batch,

    DF DF^T = sum_l (J_L ... J_{l+1}) D_l D_l^T (J_L ... J_{l+1})^T,
    lambda_min(DF DF^T) >= sum_l sigma_min(D_l)^2 prod_{j > l} sigma_min(J_j)^2,

where sigma_min is 0 for a matrix with more rows than columns. A loss c(F) with
``|c'|^2 / 2 >= mu_c (c - c*)`` then obeys the Polyak-Lojasiewicz inequality with
``mu = mu_c lambda_min(DF DF^T)``: gradient flow shrinks the loss at least by
``exp(-2 mu t)``, and gradient descent by ``1 - eta mu`` in a step of size eta, if the
loss's gradient is Lipschitz along it with a constant of at most ``1 / eta``.

References:
  MacDonald et al., On skip connections and normalisation layers in deep optimisation
  (arXiv 2210.05371); the constants are derived here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tatnet.diagnostics.jacobians import jacobian

Layers = Sequence[tuple[Callable[[Any, Any], Any], Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class TangentKernelBound:
  """What `tangent_kernel_bound` returns.

  Attributes:
    of_inputs: sigma_min(J_l) of each layer, shape [layers].
    of_parameters: sigma_min(D_l) of each layer, shape [layers].
    terms: what each layer adds to the bound, shape [layers].
    lower: the lower bound on the smallest eigenvalue, their sum.
    upper: the upper bound on the largest, from the largest singular values.
  """

  of_inputs: np.ndarray
  of_parameters: np.ndarray
  terms: np.ndarray
  lower: float
  upper: float


def tangent_kernel_bound(layers: Layers, x: Any) -> TangentKernelBound:
  """Bounds on the eigenvalues of a chain's tangent kernel, from its layers' Jacobians.

  Args:
    layers: pairs (function, params), in the order of the signal, with
      ``function(params, x)``; a residual block is one layer. Params without arrays
      are those of a layer that is not trained.
    x: the batch that enters the first.

  Returns:
    `TangentKernelBound`. The Jacobians are formed: for small layers and batches.

  Raises:
    ValueError: no layers, or a Jacobian of more than 2^28 entries.

  Example:
    >>> linear = lambda w, x: x @ w
    >>> layers = [(linear, 2.0 * jnp.eye(3)), (linear, 0.5 * jnp.eye(3))]
    >>> bound = tangent_kernel_bound(layers, jnp.eye(3)[:2])
    >>> bound.terms, bound.lower
    (array([0.25, 4.  ]), 4.25)
  """
  pairs = _jacobians(layers, x)
  inputs = np.array([_extremes(of_input) for of_input, _ in pairs])
  parameters = np.array([_extremes(of_params) for _, of_params in pairs])
  terms = parameters**2 * _products_behind(inputs**2)
  return TangentKernelBound(
    of_inputs=inputs[:, 0],
    of_parameters=parameters[:, 0],
    terms=terms[:, 0],
    lower=float(terms[:, 0].sum()),
    upper=float(terms[:, 1].sum()),
  )


def tangent_kernel(layers: Layers, x: Any) -> np.ndarray:
  """The tangent kernel ``DF DF^T`` of a chain of layers.

  Args:
    layers: as in `tangent_kernel_bound`.
    x: the batch that enters the first.

  Returns:
    A float64 array [outputs, outputs], over all outputs of the batch.

  Raises:
    ValueError: no layers, or a Jacobian of more than 2^28 entries.

  Example:
    >>> tangent_kernel([(lambda w, x: x @ w, jnp.ones([2, 1]))], jnp.array([[1.0, 2.0]]))
    array([[5.]])
  """
  kernel, behind = 0.0, None
  for of_input, of_params in reversed(_jacobians(layers, x)):
    product = of_params if behind is None else behind @ of_params
    kernel = kernel + product @ product.T
    behind = of_input if behind is None else behind @ of_input
  return kernel


def squared_error_pl(eigenvalue: float, examples: int = 1) -> float:
  """PL constant of ``sum |F - Y|^2 / (2 examples)``.

  Args:
    eigenvalue: the smallest of the tangent kernel, or a lower bound on it.
    examples: what the sum is divided by; 1 for the sum itself.

  Returns:
    mu, with ``|grad|^2 / 2 >= mu loss``.

  Raises:
    ValueError: a negative eigenvalue, or examples below 1.

  Example:
    >>> squared_error_pl(3.0, examples=2)
    1.5
  """
  _check_eigenvalue(eigenvalue)
  if examples < 1:
    raise ValueError(f"examples={examples!r}; expected a positive number.")
  return eigenvalue / examples


def cross_entropy_pl(eigenvalue: float, losses: Any, num_classes: int) -> float:
  """PL constant of the mean cross-entropy at given losses of the examples.

  The gradient in the logits of an example of loss c is at least
  ``C / (C - 1) (1 - exp(-c))^2`` in square, with C classes. The constant is one of
  the point: about ``c C / (2 (C - 1))`` for a single example of small loss c, so
  that the loss falls like 1 / t and not exponentially.

  Args:
    eigenvalue: the smallest of the tangent kernel, or a lower bound on it.
    losses: cross-entropy of every example in nats, shape [examples]; or that of one.
    num_classes: C, at least 2.

  Returns:
    mu, with ``|grad|^2 / 2 >= mu loss`` for the mean loss; 0 where that is 0.

  Raises:
    ValueError: a negative eigenvalue, negative losses or fewer than two classes.

  Example:
    >>> round(cross_entropy_pl(1.0, 0.01, num_classes=2), 5)
    0.0099
  """
  _check_eigenvalue(eigenvalue)
  values = np.atleast_1d(np.asarray(losses, np.float64))
  if not values.size or not np.all(values >= 0):
    raise ValueError(f"losses={losses!r}; expected cross-entropies, numbers of at least 0.")
  if num_classes < 2:
    raise ValueError(f"num_classes={num_classes!r}; expected at least 2.")
  mean = float(values.mean())
  if mean == 0:
    return 0.0
  squares = float(np.sum(np.expm1(-values) ** 2)) / values.size**2
  return eigenvalue * num_classes / (num_classes - 1) * squares / (2 * mean)


def _check_eigenvalue(eigenvalue: float) -> None:
  if not (eigenvalue >= 0 and math.isfinite(eigenvalue)):
    raise ValueError(
      f"eigenvalue={eigenvalue!r}; expected a number of at least 0: a tangent kernel has no negative"
      " eigenvalues. Clip what rounding left below 0."
    )


def _jacobians(layers: Layers, x: Any) -> list[tuple[np.ndarray, np.ndarray]]:
  """(J_l, D_l) of every layer."""
  if not layers:
    raise ValueError(
      "layers is empty; expected pairs (function, params) in the order of the signal."
    )
  found = []
  for function, params in layers:
    of_params = jacobian(function, params, x)
    found.append((jacobian(_swapped(function), x, params), of_params))
    x = function(params, x)
  return found


@functools.lru_cache(maxsize=64)
def _swapped(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
  """The function with its arguments exchanged; the same one each time, to be compiled once."""
  return lambda x, params: function(params, x)


def _extremes(matrix: np.ndarray) -> tuple[float, float]:
  """Smallest and largest singular value of ``matrix^T``; the smallest is 0 if rows depend."""
  if not matrix.size:
    return 0.0, 0.0
  values = np.linalg.svd(matrix, compute_uv=False)
  return (float(values[-1]) if len(values) == len(matrix) else 0.0), float(values[0])


def _products_behind(values: np.ndarray) -> np.ndarray:
  """Of all later rows, for each row."""
  ones = np.ones_like(values[:1])
  return np.concatenate([np.cumprod(values[:0:-1], axis=0)[::-1], ones])
