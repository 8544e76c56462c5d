"""Attention as a Haiku module, and the ways in which it starts."""

import dataclasses
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count, check_finite, check_flag
from tatnet.attention.functions import planned_attention, shaped_attention
from tatnet.attention.layer import AttentionLayer
from tatnet.attention.weights import (
  ProjectionWeights,
  check_heads,
  cut_skip_weights,
  mimetic_weights,
)
from tatnet.initializers import ScaledUniformOrthogonal
from tatnet.layer.fields import shown


@dataclasses.dataclass(frozen=True)
class IdentityStart:
  """Attention that starts as the identity, by trainable gains of each head and queries of zero.

  Attributes:
    centred: True for shaped attention, ``V + softmax V - C V``, with gains of 1 and C the softmax
      of logits of zero; False for Value-SkipInit, ``V + 0 softmax V``.

  Example:
    >>> tatnet.nets.IdentityStart().centred
    True
  """

  centred: bool = True


@dataclasses.dataclass(frozen=True)
class SoftmaxStart:
  """Softmax attention as it is usual: Gaussian weights of variance 1 / inputs everywhere.

  Example:
    >>> tatnet.nets.SoftmaxStart()
    SoftmaxStart()
  """


@dataclasses.dataclass(frozen=True)
class CutSkipStart:
  """Softmax attention with the weights of "Cutting the Skip": see `tatnet.attention.cut_skip_weights`.

  Attributes:
    randomness: alpha of the paper.
    identity: beta.
    value_scale: c.
    divided: whether the products are meant for logits divided by the root of a head's size.

  Example:
    >>> tatnet.nets.CutSkipStart(1.8, 1.0).value_scale
    3.0
  """

  randomness: float = 2.0
  identity: float = 0.6
  value_scale: float = 3.0
  divided: bool = True


@dataclasses.dataclass(frozen=True)
class MimeticStart:
  """Softmax attention with mimetic weights: see `tatnet.attention.mimetic_weights`.

  Attributes:
    query_key: alpha and beta of queries and keys.
    value_output: alpha and beta of values and output.

  Example:
    >>> tatnet.nets.MimeticStart().query_key
    (0.7, 0.7)
  """

  query_key: tuple[float, float] = (0.7, 0.7)
  value_output: tuple[float, float] = (0.4, 0.4)


Start = AttentionLayer | IdentityStart | SoftmaxStart | CutSkipStart | MimeticStart


class KeyValueCache(NamedTuple):
  """Keys and values of the tokens so far, for generation.

  Attributes:
    keys: array [batch, tokens, heads, size], of which the first `length` are filled.
    values: like keys.
    length: how many tokens there are, an int32 scalar.

  Example:
    >>> cache = tatnet.nets.KeyValueCache.empty(batch=2, tokens=8, heads=2, size=4)
    >>> cache.keys.shape, int(cache.length)
    ((2, 8, 2, 4), 0)
  """

  keys: jax.Array
  values: jax.Array
  length: jax.Array

  @classmethod
  def empty(
    cls, batch: int, tokens: int, heads: int, size: int, dtype: jnp.dtype = jnp.float32
  ) -> "KeyValueCache":
    """A cache for sequences of up to `tokens`, with none in it."""
    zeros = jnp.zeros([batch, tokens, heads, size], dtype)
    return cls(zeros, zeros, jnp.int32(0))

  def extended(self, keys: jax.Array, values: jax.Array) -> "KeyValueCache":
    """With the keys and values of further tokens behind."""
    start = (0, self.length, 0, 0)
    return KeyValueCache(
      jax.lax.dynamic_update_slice(self.keys, keys.astype(self.keys.dtype), start),
      jax.lax.dynamic_update_slice(self.values, values.astype(self.values.dtype), start),
      self.length + keys.shape[1],
    )


class ShapedAttention(hk.Module):
  """Multi-head attention that starts as it was planned, or as the identity.

  Queries start at zero, keys are Gaussian, values and output scaled uniform orthogonal. Without
  data the layer is then one matrix over tokens: that of its plan, or the identity.

  Args:
    heads: number of heads; they divide the width of the input.
    start: a layer of a schedule, ``schedule[0]``; `IdentityStart`, for shaped attention and
      Value-SkipInit; or one of the baselines `SoftmaxStart`, `CutSkipStart` and `MimeticStart`.
    causal: whether tokens read none after them; a layer of a schedule says so itself.
    query_scale: size of the queries' weights at the start, for planned and identity starts, as a
      multiple of orthogonal ones. At 0 the matrix is exact, and keys get no gradient until queries
      have moved: K-FAC's factors of the key layers are 0 for as long, and a burn-in that moves nothing
      leaves them 0. Give K-FAC 0.01, with which logits are of the order of 0.01, and
      ``sharing="expand"``: over tokens the gradients of keys add up to 0.
    name: name of the module.

  Raises:
    TypeError: arguments of another kind.
    ValueError: heads below 1, a query_scale that is negative or not finite, causal=False with
      a layer that is causal, or the other way round.

  Reference:
    He et al. (arXiv 2302.10322); He & Hofmann (arXiv 2311.01906).

  Example:
    >>> layer = tatnet.attention.UniformLayer(0.0, 0.05)
    >>> forward = hk.transform(lambda x: tatnet.nets.ShapedAttention(2, layer)(x))
    >>> x = jax.random.normal(jax.random.key(1), (1, 6, 8))
    >>> params = forward.init(jax.random.key(0), x)
    >>> weights = {name.split("/")[1]: layer["w"] for name, layer in params.items()}
    >>> expected = layer.as_matrix(6) @ x[0] @ weights["value"] @ weights["output"]
    >>> bool(jnp.allclose(forward.apply(params, None, x)[0], expected, atol=1e-5))
    True
  """

  def __init__(
    self,
    heads: int,
    start: Start,
    *,
    causal: bool | None = None,
    query_scale: float = 0.0,
    name: str | None = "attention",
  ):
    super().__init__(name=name)
    self.heads = check_count("ShapedAttention", "heads", heads)
    if not isinstance(start, Start):
      raise TypeError(
        f"ShapedAttention got start={shown(start)}; expected a layer of a schedule (schedule[0]),"
        " IdentityStart(), SoftmaxStart(), CutSkipStart() or MimeticStart()."
      )
    if causal is not None:
      check_flag("ShapedAttention", "causal", causal)
    planned = getattr(start, "causal", None)
    if planned is not None and causal not in (None, planned):
      raise ValueError(
        f"ShapedAttention got causal={causal} and a layer with causal={planned}; expected the same:"
        " leave causal out, or plan with the other."
      )
    self.start = start
    self.causal = bool(causal) if planned is None else planned
    self.query_scale = check_finite("ShapedAttention", "query_scale", query_scale, 0.0)

  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, cache: KeyValueCache | None = None
  ) -> jax.Array | tuple[jax.Array, KeyValueCache]:
    """Attention of the tokens in x.

    Args:
      x: float array [batch, tokens, width].
      mask: booleans, True where there is a token: [batch, tokens], or with a cache [batch, tokens of
        the cache]. Others are not read, and their output is 0.
      cache: keys and values of earlier tokens, which x continues; for causal attention.

    Returns:
      An array like x; with a cache the pair of it and the cache with the new tokens.

    Raises:
      ValueError: x of another rank, a width that the heads do not divide, a cache without
        causal attention, a mask of another shape.
    """
    if x.ndim != 3:
      raise ValueError(
        f"ShapedAttention got an input of shape {x.shape}; expected [batch, tokens, width]."
      )
    if cache is not None and not self.causal:
      raise ValueError(
        "ShapedAttention got a cache for attention that is not causal, whose earlier tokens read later"
        " ones; expected cache=None, or causal attention."
      )
    width = x.shape[-1]
    size = check_heads("ShapedAttention", width, self.heads)
    drawn = self._drawn(width)

    def heads_of(name):
      y = hk.Linear(width, with_bias=False, w_init=self._init(name, drawn), name=name)(x)
      return y.reshape(*x.shape[:2], self.heads, size)

    queries, keys, values = heads_of("query"), heads_of("key"), heads_of("value")
    first = 0
    if cache is not None:
      first = cache.length
      cache = cache.extended(keys, values)
      keys, values = cache.keys, cache.values
    out = self._attend(queries, keys, values, mask, first).reshape(x.shape)
    out = hk.Linear(width, with_bias=False, w_init=self._init("output", drawn), name="output")(out)
    return out if cache is None else (out, cache)

  @hk.transparent
  def _attend(self, queries, keys, values, mask, first):
    if isinstance(self.start, AttentionLayer):
      return planned_attention(queries, keys, values, self.start, mask=mask, first=first)
    if isinstance(self.start, IdentityStart):
      starts = {"identity_gain": 1.0, "attention_gain": float(self.start.centred)}
      if self.start.centred:
        starts["centre_gain"] = 1.0
      gains = [
        hk.get_parameter(name, [self.heads], values.dtype, init=hk.initializers.Constant(value))
        for name, value in starts.items()
      ]
    else:  # plain softmax attention is that without the identity
      gains = [jnp.zeros(self.heads), jnp.ones(self.heads)]
    return shaped_attention(
      queries, keys, values, *gains, causal=self.causal, mask=mask, first=first
    )

  def _drawn(self, width: int) -> ProjectionWeights | None:
    """Weights that are drawn together, while they are made."""
    start = self.start
    if not (isinstance(start, CutSkipStart | MimeticStart) and hk.running_init()):
      return None
    make = cut_skip_weights if isinstance(start, CutSkipStart) else mimetic_weights
    return make(hk.next_rng_key(), width, self.heads, **dataclasses.asdict(start))

  def _init(self, name: str, drawn: ProjectionWeights | None):
    if drawn is not None:
      return lambda _, dtype: getattr(drawn, name).astype(dtype)
    is_shaped = isinstance(self.start, AttentionLayer | IdentityStart)
    if is_shaped and name == "query":
      scale = self.query_scale
      return ScaledUniformOrthogonal(scale) if scale else hk.initializers.Constant(0.0)
    if is_shaped and name in ("value", "output"):
      return ScaledUniformOrthogonal()
    return hk.initializers.VarianceScaling(1.0, "fan_in", "normal")
