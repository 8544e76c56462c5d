"""Weights of attention whose products are chosen: "Cutting the Skip", and mimetic ones."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tatnet.attention.checks import check_count, check_finite


class ProjectionWeights(NamedTuple):
  """The four matrices of an attention layer, all of shape [width, width].

  Heads stand side by side in the columns of `query`, `key` and `value`, and in the rows of
  `output`. `cut_skip_weights` and `mimetic_weights` make them.

  Attributes:
    query: W_Q.
    key: W_K.
    value: W_V.
    output: W_O.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array
  output: jax.Array


def cut_skip_weights(
  key: jax.Array,
  width: int,
  heads: int,
  *,
  randomness: float = 2.0,
  identity: float = 0.6,
  value_scale: float = 3.0,
  divided: bool = True,
) -> ProjectionWeights:
  """The weights of "Cutting the Skip", with which standard blocks train without shortcuts.

  ``W_V W_O`` is ``value_scale**2`` times an orthogonal matrix; in each head ``W_Q W_K'`` is the best
  approximation, of the rank of a head, to ``randomness Z + identity I`` with Z of variance
  1 / width. The networks keep layer normalisation, which takes the scale away.

  Args:
    key: a JAX random key.
    width: number of features.
    heads: number of heads, which divides it.
    randomness: alpha of the paper.
    identity: beta of the paper, which makes tokens attend to themselves.
    value_scale: c of the paper.
    divided: whether the logits ``x W_Q W_K' x'`` are to be divided by the root of the size of
      a head. Attention layers divide; with False the weights make up for it. What is known of
      the paper does not say which it means.

  Returns:
    `ProjectionWeights`, float32.

  Raises:
    TypeError: arguments of another kind.
    ValueError: heads that do not divide the width, numbers that are not finite.

  Reference:
    Ji et al., Cutting the Skip (2026), ViT: 2, 0.6, 3; DINO: 1.8, 1, 3.

  Example:
    >>> weights = tatnet.attention.cut_skip_weights(jax.random.key(0), 16, 2)
    >>> product = weights.value @ weights.output / 9
    >>> bool(jnp.allclose(product @ product.T, jnp.eye(16), atol=1e-5))
    True
  """
  size = check_heads("cut_skip_weights", width, heads)
  for field, value in (
    ("randomness", randomness),
    ("identity", identity),
    ("value_scale", value_scale),
  ):
    check_finite("cut_skip_weights", field, value)
  logits_key, values_key = jax.random.split(key)
  left, _, right = jnp.linalg.svd(jax.random.normal(values_key, (width, width)))
  gain = 1.0 if divided else size**0.25
  query, keys = _query_and_key(logits_key, width, heads, randomness, identity)
  return ProjectionWeights(gain * query, gain * keys, value_scale * left, value_scale * right)


def mimetic_weights(
  key: jax.Array,
  width: int,
  heads: int,
  *,
  query_key: tuple[float, float] = (0.7, 0.7),
  value_output: tuple[float, float] = (0.4, 0.4),
) -> ProjectionWeights:
  """Weights whose products look like those of trained vision transformers.

  In each head ``W_Q W_K'`` approximates ``alpha Z + beta I``, and ``W_V W_O`` is
  ``alpha Z - beta I``, with Z of variance 1 / width.

  Args:
    key: a JAX random key.
    width: number of features.
    heads: number of heads, which divides it.
    query_key: alpha and beta of queries and keys.
    value_output: alpha and beta of values and output.

  Returns:
    `ProjectionWeights`, float32.

  Raises:
    TypeError: arguments of another kind.
    ValueError: heads that do not divide the width, numbers that are not finite.

  Reference:
    Trockman & Kolter, Mimetic Initialization of Self-Attention Layers (arXiv 2305.09828).

  Example:
    >>> tatnet.attention.mimetic_weights(jax.random.key(0), 16, 2).query.shape
    (16, 16)
  """
  check_heads("mimetic_weights", width, heads)
  for field, pair in (("query_key", query_key), ("value_output", value_output)):
    if not isinstance(pair, tuple) or len(pair) != 2:
      raise TypeError(f"mimetic_weights got {field}={pair!r}; expected a pair of numbers.")
    for value in pair:
      check_finite("mimetic_weights", field, value)
  logits_key, values_key = jax.random.split(key)
  query, keys = _query_and_key(logits_key, width, heads, *query_key)
  alpha, beta = value_output
  left, sizes, right = jnp.linalg.svd(_blend(values_key, width, alpha, -beta))
  root = jnp.sqrt(sizes)
  return ProjectionWeights(query, keys, left * root, root[:, None] * right)


def check_heads(name: str, width: int, heads: int) -> int:
  """The size of a head.

  Raises:
    TypeError: an argument that is no integer.
    ValueError: heads that do not divide the width.
  """
  width, heads = check_count(name, "width", width), check_count(name, "heads", heads)
  if width % heads:
    raise ValueError(
      f"{name} got width={width} and heads={heads}; expected heads that divide the width, so that"
      " all are of one size."
    )
  return width // heads


def _blend(key: jax.Array, width: int, randomness: float, identity: float) -> jax.Array:
  normals = jax.random.normal(key, (width, width)) / math.sqrt(width)
  return randomness * normals + identity * jnp.eye(width)


def _query_and_key(
  key: jax.Array, width: int, heads: int, randomness: float, identity: float
) -> tuple[jax.Array, jax.Array]:
  """For each head the leading part of a singular value decomposition, shared out evenly."""
  size = width // heads

  def head(key):
    left, sizes, right = jnp.linalg.svd(_blend(key, width, randomness, identity))
    root = jnp.sqrt(sizes[:size])
    return left[:, :size] * root, right[:size].T * root

  # One head after the other: jaxlib 0.10 on two cores hangs in two stacks of factorisations.
  query, keys = jax.lax.map(head, jax.random.split(key, heads))
  return _side_by_side(query), _side_by_side(keys)


def _side_by_side(heads: jax.Array) -> jax.Array:
  return heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)
