"""Weight decay as a part of the loss, with its own gradient and curvature."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.quadratic import inner_products


class Penalty(NamedTuple):
  """Half the squared length of the weights, times a number.

  Attributes:
    weight: the number.
    mask: of the parameters that it acts on.
  """

  weight: float
  mask: Any

  def of(self, tree: Any) -> Any:
    """Its curvature times a tree like the parameters; at the parameters, its gradient."""
    zeros = optax.tree.zeros_like(tree)
    if not self.weight:
      return zeros
    decay = optax.add_decayed_weights(self.weight, self.mask)
    return decay.update(zeros, decay.init(tree), tree)[0]

  def products(self, *directions: Any) -> jax.Array:
    """Products of directions with its curvature, ``[k, k]``."""
    if not self.weight:
      return jnp.zeros([len(directions)] * 2)
    count, scaled = len(directions), map(self.of, directions)
    return inner_products(*directions, *scaled)[:count, count:]
