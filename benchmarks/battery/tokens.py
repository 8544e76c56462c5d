"""Models over sets, graphs and tokens: pooling in the middle, mixing, attention."""

import math

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from battery import models
from battery.initial import WIDTH, embedding_in_haiku, gaussian, gaussian_in_haiku, weights
from battery.layers import conv, linear
from battery.models import TANH
from battery.signals import Inputs, signals, tokens

SET, TEXT = signals(6, 32), tokens(6)
WORDS = signals(6, WIDTH)
POOLED = r"pool|averag|sum|mean|locations|mixed|q is not 1"
ATTENTION = r"attention|softmax|product of two signals"
MIXED = r"constant|mix|locations|adjacency"


def layers(x, activation, count=3):
  for _ in range(count):
    x = activation(linear()(x))
  return x


def deep_sets(x, activation, pool):
  return linear()(layers(pool(layers(x, activation)), activation, 2))


def early_mean(x, activation):
  """Words averaged before any nonlinear layer."""
  return linear()(layers(x.mean(1), activation))


def bag_of_words(ids, activation):
  x = hk.Embed(64, WIDTH, w_init=embedding_in_haiku)(ids)
  return linear()(layers(x.mean(1), activation))


def text_net(ids, activation):
  """Embeddings, then the same layers for every word."""
  x = hk.Embed(64, WIDTH, w_init=embedding_in_haiku)(ids)
  return linear()(layers(x, activation, 4))


def text_conv_net(ids, activation):
  x = hk.Embed(64, WIDTH, w_init=embedding_in_haiku)(ids)
  for _ in range(3):
    x = activation(hk.Conv1D(WIDTH, 3, w_init=gaussian_in_haiku)(x))
  return linear()(x.max(1))


def masked_mean(x, mask, activation):
  h = layers(x, activation, 2)
  m = mask[..., None].astype(x.dtype)
  return layers((h * m).sum(1) / m.sum(1), activation, 2)


def flattened(x, activation):
  """All locations become features, then layers: what they had in common stays."""
  return layers(layers(x, activation).reshape(x.shape[0], -1), activation, 2)


RING = sum(np.roll(np.eye(6), i, 0) for i in (-1, 0, 1))
GRAPHS = {
  "rows to 1": RING / RING.sum(1, keepdims=True),
  "symmetric": RING / np.sqrt(np.outer(RING.sum(0), RING.sum(1))),
  "sum": RING,
}


def graph_net(x, activation, adjacency):
  for _ in range(3):
    x = activation(jnp.asarray(adjacency, x.dtype) @ linear()(x))
  return linear()(x)


def graph_net_given(x, adjacency, activation):
  for _ in range(3):
    x = activation(adjacency @ linear()(x))
  return x


def message_passing(x, activation):
  """Sums over the neighbours in a list of edges."""
  senders, receivers = np.nonzero(RING)
  for _ in range(2):
    messages = activation(linear()(x))[:, senders]
    x = jnp.zeros([*x.shape[:2], WIDTH]).at[:, receivers].add(messages)
    x = activation(linear()(x))
  return x


class Mixer(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    for _ in range(2):
      y = nn.Dense(128, kernel_init=gaussian)(jnp.swapaxes(nn.LayerNorm()(x), 1, 2))
      y = nn.Dense(x.shape[1], kernel_init=gaussian)(self.activation(y))
      x = 0.6 * x + 0.8 * jnp.swapaxes(y, 1, 2)
      y = self.activation(nn.Dense(WIDTH, kernel_init=gaussian)(nn.LayerNorm()(x)))
      x = 0.6 * x + 0.8 * nn.Dense(WIDTH, kernel_init=gaussian)(y)
    return x


class GatedMlp(nn.Module):
  """gMLP: a half of the features, mixed over tokens, multiplies the other."""

  activation: object

  @nn.compact
  def __call__(self, x):
    x = self.activation(nn.Dense(2 * WIDTH, kernel_init=gaussian)(x))
    u, v = jnp.split(x, 2, -1)
    v = nn.Dense(x.shape[1], kernel_init=gaussian, bias_init=nn.initializers.ones)(v.swapaxes(1, 2))
    return nn.Dense(WIDTH, kernel_init=gaussian)(u * v.swapaxes(1, 2))


class Transformer(nn.Module):
  activation: object
  linear_attention: bool = False

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    y = nn.LayerNorm()(x)
    q, k, v = (nn.Dense(WIDTH, kernel_init=gaussian)(y) for _ in range(3))
    scores = q @ k.swapaxes(1, 2)
    if self.linear_attention:
      y = scores / x.shape[1] @ v
    else:
      y = jax.nn.softmax(scores / math.sqrt(WIDTH)) @ v
    x = 0.6 * x + 0.8 * nn.Dense(WIDTH, kernel_init=gaussian)(y)
    y = self.activation(nn.Dense(WIDTH, kernel_init=gaussian)(nn.LayerNorm()(x)))
    return 0.6 * x + 0.8 * nn.Dense(WIDTH, kernel_init=gaussian)(y)


class LinenAttention(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    y = nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
    return 0.6 * x + 0.8 * nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(y))


def vision_transformer(x, activation):
  x = conv(4, WIDTH, stride=4, padding="VALID")(x)
  x = x.reshape(x.shape[0], -1, WIDTH)
  y = hk.MultiHeadAttention(4, 64, w_init=gaussian_in_haiku)(x, x, x)
  x = 0.6 * x + 0.8 * y
  return linear()(activation(linear()(x)).mean(1))


def dot_product(params, x, activation):
  """JAX's own attention."""
  w = params["w"]
  q, k, v = (activation(x @ w[0])[:, :, None] @ w[i] for i in (1, 2, 3))
  return activation(jax.nn.dot_product_attention(q, k, v)[:, :, 0] @ w[4])


def uniform_causal(x, activation):
  """As a transformer with queries of 0 begins: every token reads the mean of those before."""
  mix = jnp.asarray(np.tril(np.ones([6, 6])) / np.arange(1, 7)[:, None], x.dtype)
  for _ in range(3):
    x = jnp.einsum("ij,bjd->bid", mix, activation(linear()(x)))
  return linear()(x)


def shifted(x, activation):
  """A token shift: half of the features come from the token before."""
  for _ in range(3):
    x = activation(linear()(x))
    x = jnp.concatenate([x[..., :128], jnp.roll(x, 1, 1)[..., 128:]], -1)
  return linear()(x)


def class_token(x, activation):
  x = layers(x, activation, 2)
  return linear()(activation(linear()(x[:, 0])))


def fourier_mixing(x, activation):
  """FNet: the real part of a Fourier transform over tokens and features."""
  x = linear()(x)
  y = jnp.fft.fft2(x).real
  return activation(linear()(y / jnp.sqrt(jnp.mean(y**2, -1, keepdims=True))))


def learned_mixing(params, x, activation):
  """A random matrix of weights over the tokens (Synthesizer without softmax)."""
  w, mix = params
  for kernel, tokens_by_tokens in zip(w, mix, strict=True):
    x = activation(jnp.einsum("ij,bjd->bid", tokens_by_tokens, x @ kernel))
  return x


def learned_mixing_start(key):
  first, second = jax.random.split(key)
  kernels = weights(*[(WIDTH, WIDTH)] * 2)(first)
  return kernels, weights(*[(6, 6)] * 2)(second)


def haiku(name, kind, forward, inputs=SET, **options):
  return models.haiku(name, kind, forward, inputs, **options)


MASK = jnp.asarray(np.arange(6) < np.array([4, 6, 5, 3])[:, None])
MASKED = Inputs((*SET.arrays, MASK), SET.gram)
FLOAT_MASKED = Inputs((*SET.arrays, MASK.astype(jnp.float32)), SET.gram)
GIVEN = Inputs((*SET.arrays, jnp.asarray(GRAPHS["symmetric"], jnp.float32)), SET.gram)
MODELS = [
  haiku(
    "deep sets, sum", "deep sets", deep_sets, arguments={"pool": lambda x: x.sum(1)}, finding=POOLED
  ),
  haiku(
    "deep sets, mean",
    "deep sets",
    deep_sets,
    arguments={"pool": lambda x: x.mean(1)},
    finding=POOLED,
  ),
  haiku(
    "deep sets, scaled sum",
    "deep sets",
    deep_sets,
    arguments={"pool": lambda x: x.sum(1) / math.sqrt(6)},
    finding=POOLED,
  ),
  haiku(
    "deep sets, mean, tanh",
    "deep sets",
    deep_sets,
    arguments={"pool": lambda x: x.mean(1)},
    activation=TANH,
    finding=POOLED,
  ),
  haiku("point net", "point net", deep_sets, arguments={"pool": lambda x: x.max(1)}, finding="max"),
  haiku("early mean", "deep sets", early_mean, finding=POOLED),
  haiku("bag of words", "embeddings", bag_of_words, TEXT, finding=POOLED),
  haiku("words", "embeddings", text_net, TEXT),
  haiku("text convnet", "embeddings", text_conv_net, TEXT, finding="max", at="activation"),
  haiku("masked mean, bool", "masks", masked_mean, MASKED, finding=r"pool|averag|mask"),
  haiku(
    "masked mean, float", "masks", masked_mean, FLOAT_MASKED, finding=r"pool|averag|mask|gating"
  ),
  haiku("flattened locations", "flatten in the middle", flattened),
  *(
    haiku(f"graph, {name}", "graph network", graph_net, arguments={"adjacency": a}, finding=MIXED)
    for name, a in GRAPHS.items()
  ),
  haiku("graph, adjacency given", "graph network", graph_net_given, GIVEN, finding=MIXED),
  haiku(
    "graph, list of edges", "graph network", message_passing, finding=MIXED + "|scatter|unknown"
  ),
  models.linen("mixer", "mixer", Mixer, SET, finding=r"\bmean\b|centr|layer norm"),
  models.linen("gmlp", "gating over tokens", GatedMlp, SET, finding="gating|initial"),
  models.linen("transformer", "softmax attention", Transformer, SET, finding=ATTENTION),
  models.linen(
    "linear attention", "linear attention", lambda a: Transformer(a, True), SET, finding=ATTENTION
  ),
  models.linen("attention of linen", "softmax attention", LinenAttention, WORDS, finding=ATTENTION),
  haiku(
    "vision transformer",
    "softmax attention",
    vision_transformer,
    signals(8, 8, 16),
    finding=ATTENTION,
  ),
  haiku("uniform causal", "constant mixing", uniform_causal, finding=MIXED),
  haiku("token shift", "token shift", shifted),
  haiku("class token", "class token", class_token),
  haiku("fourier mixing", "fourier mixing", fourier_mixing, finding="unknown|fft|mix"),
  models.plain_jax("learned mixing", "mixer", learned_mixing, learned_mixing_start, WORDS),
]
