"""What transformers of tokens and of patches share: positions, blocks, and the last layer."""

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count, check_flag
from tatnet.attention.schedule import AttentionSchedule
from tatnet.initializers import ScaledUniformOrthogonal
from tatnet.layer.fields import shown
from tatnet.layer.kernels import RectifierKernel
from tatnet.layer.record import TransformedActivation
from tatnet.nets.attention import IdentityStart, KeyValueCache, Start
from tatnet.nets.transformer_block import TransformerBlock, UnitRows, normalized
from tatnet.nets.transformer_plan import TransformerPlan

Caches = tuple[KeyValueCache, ...]


class Tower(hk.Module):
  """What transformers of tokens and of patches share: positions, blocks, and the last layer."""

  def __init__(
    self,
    plan: TransformerPlan,
    num_classes: int,
    *,
    activation: Callable[[jax.Array], jax.Array],
    attention: AttentionSchedule | Start,
    causal: bool,
    query_scale: float,
    name: str | None,
  ):
    super().__init__(name=name)
    kind = type(self).__name__
    self.plan = plan
    self.num_classes = check_count(kind, "num_classes", num_classes)
    if not callable(activation):
      raise TypeError(
        f"{kind} got activation={shown(activation)}; expected a function of arrays, such as the result"
        " of tatnet.transform_activation, or jax.nn.gelu."
      )
    self.activation, self.query_scale = activation, query_scale
    check_flag(kind, "causal", causal)
    self.causal = causal
    self.starts = _starts(kind, plan, attention, self.causal)
    _check_q(kind, attention, activation)

  @hk.transparent
  def _tokens(self, x: jax.Array, first: int | jax.Array = 0) -> jax.Array:
    """Tokens with their positions, each of q = 1: so is the sum."""
    plan = self.plan
    table = hk.Embed(plan.context, plan.width, w_init=UnitRows(), name="positions")
    # Looked up for every example, so that K-FAC covers it.
    places = jnp.broadcast_to(first + jnp.arange(x.shape[1]), x.shape[:2])
    return (x + table(places).astype(x.dtype)) * 0.5**0.5

  @hk.transparent
  def _blocks(
    self, x: jax.Array, mask: jax.Array | None, caches: Caches | None
  ) -> tuple[jax.Array, Caches | None]:
    found = []
    for number, start in enumerate(self.starts):
      block = TransformerBlock(
        self.plan,
        self.activation,
        start,
        causal=self.causal,
        query_scale=self.query_scale,
        name=f"block_{number + 1}",
      )
      x, cache = block(x, mask, None if caches is None else caches[number])
      found.append(cache)
    return normalized(self.plan, x, "final_norm"), tuple(found) if caches is not None else None

  @hk.transparent
  def _logits(self, x: jax.Array) -> jax.Array:
    is_shaped = isinstance(self.activation, TransformedActivation)
    w_init = ScaledUniformOrthogonal() if is_shaped else None
    return hk.Linear(self.num_classes, w_init=w_init, name="logits")(x)

  def _check_length(self, tokens: int) -> None:
    if tokens > self.plan.context:
      raise ValueError(
        f"{type(self).__name__} got {tokens} tokens; expected at most context={self.plan.context}, for"
        " which it has positions."
      )


def _starts(kind: str, plan: TransformerPlan, attention, causal: bool) -> tuple[Start, ...]:
  if not isinstance(attention, AttentionSchedule):
    return (attention,) * plan.depth
  if len(attention) != plan.depth:
    raise ValueError(
      f"{kind} got a schedule of {len(attention)} attention layers for depth={plan.depth}; expected one"
      " for each block: plan it for the network's topology."
    )
  if attention.causal != causal:
    raise ValueError(
      f"{kind} got causal={causal} and a schedule with causal={attention.causal}; expected the same."
    )
  # A layer that moves nothing starts as the identity and learns.
  return tuple(IdentityStart() if layer.is_identity else layer for layer in attention.layers)


def _check_q(kind: str, attention, activation) -> None:
  """Raises where attention does not keep q = 1 and the activation is solved for nothing else."""
  if (
    isinstance(attention, AttentionSchedule)
    and not attention.keeps_q
    and isinstance(activation, TransformedActivation)
    and not isinstance(activation.maps.kernel, RectifierKernel)
  ):
    raise ValueError(
      f"{kind} got {activation!r} with attention that was planned alone: q grows between nonlinear"
      " layers, and this activation is solved for q = 1. Expected a schedule of"
      " tatnet.attention_schedule, which keeps q = 1; or a rectifier, whose map is the same at every q."
    )


def mean_of_tokens(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Over the tokens that are there."""
  if mask is None:
    return x.mean(axis=1)
  there = mask[..., None].astype(x.dtype)
  return (x * there).sum(1) / jnp.maximum(there.sum(1), 1)
