"""One block of a transformer: attention and a dense part, as the plan says."""

from collections.abc import Callable, Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.initializers import ScaledUniformOrthogonal
from tatnet.layer.record import TransformedActivation
from tatnet.nets.attention import KeyValueCache, ShapedAttention, Start
from tatnet.nets.gaussian import HeNormal
from tatnet.nets.options import residual_weights
from tatnet.nets.transformer_plan import TransformerPlan


class UnitRows(hk.initializers.Initializer):
  """Random rows of q = 1: a table of embeddings.

  Example:
    >>> forward = hk.transform(lambda ids: hk.Embed(9, 16, w_init=tatnet.nets.UnitRows())(ids))
    >>> table = forward.init(jax.random.key(0), jnp.zeros(2, int))["embed"]["embeddings"]
    >>> bool(jnp.allclose((table**2).mean(1), 1, atol=1e-5))
    True
  """

  def __call__(self, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Draws a table inside `hk.transform`."""
    rows = jax.random.normal(hk.next_rng_key(), shape)
    return (rows * jax.lax.rsqrt(jnp.mean(rows**2, axis=-1, keepdims=True))).astype(dtype)


class TransformerBlock(hk.Module):
  """Attention, and a dense part; each with a shortcut if the plan has them.

  Args:
    plan: sizes, shortcuts and normalisation.
    activation: that of the dense part.
    start: how attention starts: see `ShapedAttention`.
    causal: whether tokens read none after them.
    query_scale: see `ShapedAttention`.
    name: name of the module.

  Example:
    >>> plan = tatnet.nets.TransformerPlan(depth=1, width=8, heads=2, context=6)
    >>> start = tatnet.nets.IdentityStart()
    >>> block = lambda x: tatnet.nets.TransformerBlock(plan, jnp.tanh, start, causal=True)(x)
    >>> x = jax.ShapeDtypeStruct((1, 6, 8), jnp.float32)
    >>> len(jax.eval_shape(hk.transform(block).init, jax.random.key(0), x))
    7
  """

  def __init__(
    self,
    plan: TransformerPlan,
    activation: Callable[[jax.Array], jax.Array],
    start: Start,
    *,
    causal: bool,
    query_scale: float = 0.0,
    name: str | None = "block",
  ):
    super().__init__(name=name)
    self.plan = plan
    self.activation = activation
    self.attention = {"heads": plan.heads, "start": start, "causal": causal}
    self.attention["query_scale"] = query_scale

  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, cache: KeyValueCache | None = None
  ) -> tuple[jax.Array, KeyValueCache | None]:
    """The block for tokens [batch, tokens, width]; the result, and the cache with them."""
    plan = self.plan
    y = ShapedAttention(**self.attention)(normalized(plan, x, "norm_1"), mask, cache)
    y, cache = y if cache is not None else (y, None)
    x = self._add(x, y)
    y = self.activation(
      dense(self.activation, plan.inner, normalized(plan, x, "norm_2"), "dense_1")
    )
    y = dense(self.activation, plan.width, y, "dense_2")
    return self._add(x, self.activation(y) if plan.nonlinear == 2 else y), cache

  @hk.transparent
  def _add(self, x: jax.Array, branch: jax.Array) -> jax.Array:
    weight, rest = residual_weights(self.plan.shortcut_weight)
    if weight == 0:
      return branch
    return x + branch if self.plan.shortcut_weight is None else weight * x + rest * branch


def dense(activation: Callable, size: int, x: jax.Array, name: str) -> jax.Array:
  """A dense layer; orthogonal where the activation is shaped."""
  w_init = (
    ScaledUniformOrthogonal() if isinstance(activation, TransformedActivation) else HeNormal()
  )
  return hk.Linear(size, w_init=w_init, name=name)(x)


def normalized(plan: TransformerPlan, x: jax.Array, name: str) -> jax.Array:
  """Layer normalisation, where the plan has it."""
  return x if plan.normalization is None else hk.LayerNorm(-1, True, True, name=name)(x)
