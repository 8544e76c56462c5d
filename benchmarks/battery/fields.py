"""Coordinates as inputs: SIREN, NeRF, physics-informed networks, time embeddings."""

import functools
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from battery import models
from battery.initial import WIDTH, embedding_in_haiku, gaussian, squares, weights
from battery.layers import linear
from battery.models import TANH
from battery.signals import Inputs, signals, tokens

POINTS = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)), jnp.float32)
RAW = r"raw input|input|encod|without weights"


def kernel(features) -> np.ndarray:
  """Cosines of what a function makes of the points."""
  y = np.asarray(features(POINTS), np.float64).reshape(4, -1)
  y /= np.linalg.norm(y, axis=1, keepdims=True)
  return y @ y.T


def siren(params, x, w0):
  for w in params[:-1]:
    x = jnp.sin(w0 * (x @ w))
  return x @ params[-1]


def siren_start(key, w0):
  """As published: hidden weights of variance 2 / (inputs w0^2), so that w0 W x has q = 1."""
  first, *rest = jax.random.split(key, 4)
  hidden = [math.sqrt(2) / w0 * gaussian(k, (WIDTH, WIDTH)) for k in rest]
  return [gaussian(first, (32, WIDTH)) / w0, *hidden]


def encoded(x, count=3, shift=math.pi / 2):
  scaled = jnp.concatenate([2.0**i * x for i in range(count)], -1)
  waves = jnp.concatenate([jnp.sin(scaled), jnp.sin(scaled + shift)], -1)
  return math.sqrt(2) * waves


def nerf(x, activation):
  start = encoded(x)
  h = start
  for layer in range(4):
    h = activation(linear()(h))
    if layer == 1:
      h = jnp.concatenate([h, start], -1)
  return linear()(h)


def nerf_heads(x, direction, activation):
  h = encoded(x)
  for _ in range(3):
    h = activation(linear()(h))
  density, features = jax.nn.softplus(linear(1)(h)), linear()(h)
  h = activation(linear()(jnp.concatenate([features, encoded(direction, 2)], -1)))
  return jax.nn.sigmoid(linear(3)(h)), density


FREQUENCIES = jnp.asarray(np.random.default_rng(4).normal(size=(3, 64)), jnp.float32)


def fourier_features(x):
  angles = x @ FREQUENCIES
  return math.sqrt(2) * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def fourier_net(x, activation):
  h = fourier_features(x)
  for _ in range(3):
    h = activation(linear()(h))
  return linear()(h)


def learned_fourier_features(params, x, activation):
  """Random features whose matrix is a parameter, computed twice as such code does."""
  w = params
  h = math.sqrt(2) * jnp.concatenate([jnp.cos(x @ w[0]), jnp.sin(x @ w[0])], -1)
  return activation(activation(h @ w[1]) @ w[2])


def physics(params, x, activation):
  """The solution and its derivative along the first coordinate."""

  def solution(x):
    h = x
    for w in params[:-1]:
      h = activation(h @ w)
    return h @ params[-1]

  along = jnp.zeros_like(x).at[:, 0].set(1.0)
  return jax.jvp(solution, (x,), (along,))


def solution_only(params, x, activation):
  h = x
  for w in params[:-1]:
    h = activation(h @ w)
  return h @ params[-1]


def operator_net(params, branch, trunk, activation):
  """DeepONet: the product of two networks is its output."""
  w = params["w"]
  for a, b in ((w[0], w[1]), (w[2], w[3])):
    branch, trunk = activation(branch @ a), activation(trunk @ b)
  return jnp.sum(branch * trunk, -1)


def with_time(x, t, activation):
  """A time embedding joins the stream, as in diffusion models."""
  angles = t[:, None] * jnp.exp(-jnp.arange(16.0))
  waves = math.sqrt(2) * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
  e = linear()(activation(linear()(waves)))
  for _ in range(2):
    x = activation(0.6 * linear()(x) + 0.8 * linear()(e))
  return x


def with_positions(ids, activation):
  """Sinusoidal positions added to embeddings."""
  x = hk.Embed(64, WIDTH, w_init=embedding_in_haiku)(ids)
  angle = np.arange(6)[:, None] * np.exp(-np.arange(WIDTH // 2) / 16)
  x = x + jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], -1), x.dtype)
  for _ in range(3):
    x = activation(linear()(x))
  return x


def learned_positions(ids, activation):
  x = hk.Embed(64, WIDTH, w_init=embedding_in_haiku)(ids)
  p = hk.get_parameter("positions", [6, WIDTH], init=embedding_in_haiku)
  x = 0.6 * x + 0.8 * p
  for _ in range(3):
    x = activation(linear()(x))
  return x


def sine_net(x, activation):
  for _ in range(4):
    x = activation(linear()(x))
  return linear()(x)


SIN = models.unit("sin")
# Maps begin behind 0.6 words + 0.8 positions; the positions of two examples are the same.
PLACED = Inputs(tokens(6).arrays, 0.36 * np.eye(4) + 0.64)
COORDINATES = Inputs((POINTS,), kernel(encoded))
MODELS = [
  models.plain_jax(
    "siren",
    "siren",
    functools.partial(siren, w0=30.0),
    weights((32, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)),
    signals(32),
    q=None,
    finding="q far",
  ),
  models.plain_jax(
    "siren, published weights",
    "siren",
    functools.partial(siren, w0=30.0),
    functools.partial(siren_start, w0=30.0),
    signals(32),
    q=None,
    finding="q far|scale|steep",
  ),
  models.haiku("sine net", "siren", sine_net, signals(32), activation=SIN),
  models.haiku("nerf", "encodings", nerf, COORDINATES, finding=RAW),
  models.haiku(
    "nerf, two heads",
    "encodings",
    nerf_heads,
    Inputs((POINTS, POINTS[::-1]), COORDINATES.gram),
    finding=RAW,
    at="activation",
  ),
  models.haiku(
    "fourier features",
    "encodings",
    fourier_net,
    signals(3),
    finding=RAW + "|constant",
  ),
  models.plain_jax(
    "learned fourier features",
    "encodings",
    learned_fourier_features,
    weights((WIDTH, WIDTH), (2 * WIDTH, WIDTH), (WIDTH, WIDTH)),
    signals(WIDTH),
  ),
  models.plain_jax(
    "physics-informed, with a derivative",
    "physics-informed",
    physics,
    weights((3, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)),
    signals(3),
    activation=TANH,
    finding="tied|unknown|gating|product|placeholder|deriv",
    at="activation",
  ),
  models.plain_jax(
    "physics-informed, solution",
    "physics-informed",
    solution_only,
    weights((3, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)),
    signals(3),
    activation=TANH,
    at="activation",
    q=None,
  ),
  models.plain_jax(
    "operator net",
    "operator net",
    operator_net,
    squares(4),
    signals(WIDTH, also=(signals(WIDTH).arrays[0],)),
    finding="gating|product",
    at="activation",
  ),
  models.haiku(
    "time embedding",
    "encodings",
    with_time,
    signals(32, also=(jnp.linspace(0, 50, 4),)),
    finding=RAW + "|constant",
  ),
  models.haiku("fixed positions", "positions", with_positions, tokens(6), finding="sum"),
  models.haiku(
    "learned positions",
    "positions",
    learned_positions,
    PLACED,
    finding="initial|constant|sum",
  ),
]
