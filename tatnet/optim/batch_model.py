"""The loss of one batch as a function of the parameters, and its curvature along directions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.optim.layers import is_masked
from tatnet.optim.quadratic import dot


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What the models of all batches have in common; compared by identity.

  Attributes:
    outputs: ``(params, batch, options) -> outputs`` of the network, without taps.
    mean_loss: ``(outputs, batch) ->`` mean over the batch.
  """

  outputs: Callable
  mean_loss: Callable


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchModel:
  """The loss of one batch around the parameters at which it was evaluated.

  A pytree of the arrays that the network was called with. Nothing is computed before a
  method is called; inside one `jax.jit`, XLA shares the forward pass with that of the
  gradients.

  Attributes:
    program: the functions.
    options: arguments of the network that are no arrays.
    batch: all else that it is called with.
    params: the parameters.
    loss: its value there.

  Reference:
    Martens & Grosse (arXiv 1503.05671), Section 6.4 and Appendix C.

  Example:
    >>> network = hk.transform(lambda x: hk.Linear(1, with_bias=False)(x))
    >>> params = {"linear": {"w": jnp.zeros([2, 1])}}
    >>> evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SquaredError())
    >>> x, y = jnp.array([[1.0, 0], [0, 2]]), jnp.ones([2, 1])
    >>> model = evaluate(params, x, y, key=jax.random.key(0)).model
    >>> direction = {"linear": {"w": jnp.ones([2, 1])}}
    >>> print(model.curvature_products(direction), model.loss_at(direction))
    [[2.5]] 0.25
  """

  program: Program = dataclasses.field(metadata={"static": True})
  options: "Options" = dataclasses.field(metadata={"static": True})
  batch: Any
  params: Any
  loss: jax.Array

  def loss_at(self, params: Any) -> jax.Array:
    """The mean loss of the same batch at other parameters: one forward pass.

    Parameters that are another optimiser's (`optax.MaskedNode`) stay where they are.
    """
    params = _filled(params, self.params)
    outputs = self.program.outputs(params, self.batch, self.options)
    return self.program.mean_loss(outputs, self.batch)

  def curvature_products(self, *directions: Any) -> jax.Array:
    """Products ``v_i^T C v_j`` with the batch's own Gauss-Newton matrix C, ``[k, k]``.

    C is ``J^T H J``, with the Jacobian J of the outputs by the parameters and the
    Hessian H of the mean loss by the outputs; of the losses of `tatnet.optim` it is
    the Fisher matrix too. One forward-mode product for each direction, exact.

    Args:
      *directions: trees like the parameters; 0 where these are another optimiser's.

    Returns:
      A symmetric matrix of at least 32 bits.

    Raises:
      TypeError: a network with `jax.custom_vjp` inside, which JAX cannot differentiate
        forwards.
    """
    outputs, push = jax.linearize(
      lambda params: self.program.outputs(params, self.batch, self.options), self.params
    )
    still = jax.tree.map(jnp.zeros_like, self.params)
    tangents = [push(_filled(direction, still)) for direction in directions]
    slope = jax.grad(lambda outputs: self.program.mean_loss(outputs, self.batch))
    _, hessian = jax.linearize(slope, outputs)
    bent = [hessian(tangent) for tangent in tangents]
    rows = [[dot(a, b) for b in bent] for a in tangents]
    matrix = jnp.array(rows)
    return (matrix + matrix.T) / 2


def _filled(part: Any, whole: Any) -> Any:
  """A tree with what is another optimiser's taken from the whole."""
  return jax.tree.map(
    lambda own, other: other if is_masked(own) else own, part, whole, is_leaf=is_masked
  )


class Options(dict):
  """Arguments by keyword that are no arrays; may be part of a pytree's structure."""

  def __hash__(self):
    return hash(frozenset(self))


def split_options(kwargs: dict[str, Any]) -> tuple[dict[str, Any], Options]:
  """Arguments by keyword that are arrays (or trees of them), and those that are not."""

  def is_data(value) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)

  data = {name: value for name, value in kwargs.items() if is_data(value)}
  return data, Options({name: kwargs[name] for name in kwargs if name not in data})
