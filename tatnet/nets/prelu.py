"""PReLU: the baseline whose negative slope is learnt instead of solved for."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class PReLU:
  """Leaky ReLU with a trainable negative slope for each channel.

  Called inside a Haiku module; every call is a layer with slopes of its own. Give
  the layers `HeNormal(initial_slope)`, with which they keep q at initialisation.

  Attributes:
    initial_slope: of every channel.

  Reference:
    He et al., Delving Deep into Rectifiers (arXiv 1502.01852), Section 2.1.

  Example:
    >>> forward = hk.transform(lambda x: tatnet.nets.PReLU(0.25)(x))
    >>> params = forward.init(jax.random.key(0), jnp.ones([2, 3]))
    >>> print(forward.apply(params, None, jnp.array([[-1.0, 0.0, 2.0]])))
    [[-0.25  0.    2.  ]]
  """

  initial_slope: float = 0.25

  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the activation to ``[..., channels]``."""
    return _PReLU(self.initial_slope, name="prelu")(x)


class _PReLU(hk.Module):
  def __init__(self, initial_slope: float, name: str):
    super().__init__(name=name)
    self.initial_slope = initial_slope

  def __call__(self, x: jax.Array) -> jax.Array:
    init = hk.initializers.Constant(self.initial_slope)
    slope = hk.get_parameter("slope", x.shape[-1:], x.dtype, init=init)
    return jnp.where(x > 0, x, slope * x)
