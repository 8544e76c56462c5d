"""Gaussian initialisers of the baselines."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class _Gaussian:
  """Independent normal weights; subclasses say of which standard deviation."""

  def deviation(self, shape: Sequence[int]) -> float:
    """Standard deviation of a kernel ``[*window, inputs, outputs]``."""
    raise NotImplementedError

  def __call__(self, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Draws a weight inside `hk.transform`."""
    normals = jax.random.normal(hk.next_rng_key(), shape, jnp.promote_types(dtype, jnp.float32))
    return (self.deviation(shape) * normals).astype(dtype)

  def num_normals(self, weights: Sequence[jax.ShapeDtypeStruct]) -> int:
    """How many normal numbers `from_normals` takes."""
    return sum(math.prod(weight.shape) for weight in weights)

  def from_normals(
    self, normals: jax.Array, weights: Sequence[jax.ShapeDtypeStruct]
  ) -> list[jax.Array]:
    """Weights made of given normal numbers, so that a network draws them all at once."""
    stops = list(itertools.accumulate(math.prod(weight.shape) for weight in weights))
    return [
      (self.deviation(weight.shape) * own.reshape(weight.shape)).astype(weight.dtype)
      for own, weight in zip(jnp.split(normals, stops[:-1]), weights, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class HeNormal(_Gaussian):
  """Variance ``2 / ((1 + a^2) inputs)``: keeps q under a leaky ReLU of negative slope a.

  Attributes:
    negative_slope: a.

  Reference:
    He et al., Delving Deep into Rectifiers (arXiv 1502.01852), Section 2.2.

  Example:
    >>> forward = hk.transform(lambda x: hk.Linear(64, w_init=tatnet.nets.HeNormal())(x))
    >>> w = forward.init(jax.random.key(0), jnp.ones([1, 500]))["linear"]["w"]
    >>> round(float((w**2).mean() * 500), 1)
    2.0
  """

  negative_slope: float = 0.0

  def deviation(self, shape: Sequence[int]) -> float:
    """Standard deviation, by the number of inputs of one output."""
    return math.sqrt(2 / ((1 + self.negative_slope**2) * math.prod(shape[:-1])))


@dataclasses.dataclass(frozen=True)
class SmallNormal(_Gaussian):
  """Standard deviation ``1 / (k^2 c)``, with which residual branches start near zero.

  k is the size of the window and c the number of output channels. Usual
  initialisations have about ``1 / (k sqrt(c))``.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Section 4.1.

  Example:
    >>> forward = hk.transform(lambda x: hk.Conv2D(64, 3, w_init=tatnet.nets.SmallNormal())(x))
    >>> w = forward.init(jax.random.key(0), jnp.ones([1, 8, 8, 64]))["conv2_d"]["w"]
    >>> bool(abs(w.std() * 9 * 64 - 1) < 0.02)
    True
  """

  def deviation(self, shape: Sequence[int]) -> float:
    """Standard deviation, by window and outputs."""
    return 1 / (math.prod(shape[:-2]) * shape[-1])
