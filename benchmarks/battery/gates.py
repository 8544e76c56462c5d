"""Products of signals: gates, experts, modulation; all are to be refused by name."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from battery import models
from battery.initial import WIDTH, gaussian, squares
from battery.layers import conv, linear
from battery.signals import signals

VECTORS, IMAGES, SEQUENCE = signals(32), signals(6, 6, 16), signals(4, 32)
HIDDEN = signals(WIDTH)
GATED = r"gating|product of two|multipl"
NOT_READ = r"gating|tied|control flow|unknown|product|softmax|constant|dependent"


def glu(x, activation):
  x = linear()(x)
  return linear()(activation(linear()(jax.nn.glu(linear(2 * WIDTH)(x)))))


def swiglu(params, x):
  w = params["w"]
  return (jax.nn.silu(x @ w[0]) * (x @ w[1])) @ w[2]


def highway(x, activation):
  x = linear()(x)
  for _ in range(2):
    gate = jax.nn.sigmoid(linear(b_init=hk.initializers.Constant(-1))(x))
    x = gate * activation(linear()(x)) + (1 - gate) * x
  return x


def squeeze_excite(x, activation):
  x = activation(conv()(x))
  s = activation(linear(32)(x.mean((1, 2))))
  return activation(conv()(x * jax.nn.sigmoid(linear(128)(s))[:, None, None]))


def film(x, condition, activation):
  h = activation(linear()(x))
  scale, shift = jnp.split(linear(2 * WIDTH)(condition), 2, -1)
  return activation(linear()((1 + scale) * h + shift))


def experts(x, activation):
  x = linear()(x)
  weights = jax.nn.softmax(linear(3)(x))
  each = jnp.stack([linear()(activation(linear()(x))) for _ in range(3)], 1)
  return jnp.einsum("be,bed->bd", weights, each)


def factorised(x, activation):
  """Polynomial nets and bilinear layers."""
  x = linear()(x)
  return linear()(activation(linear()(linear()(x) * linear()(x))))


def maxout(x, activation):
  a, b = jnp.split(linear(2 * WIDTH)(x), 2, -1)
  return activation(linear()(jnp.maximum(a, b)))


def hyper_network(params, x, activation):
  w = params["w"]
  h = activation(x @ w[0])
  generated = (h @ w[1]).reshape(h.shape[0], 16, 16) / 16
  return activation(jnp.einsum("bi,bij->bj", (x @ w[2])[:, :16], generated))


def gru(x):
  core = hk.GRU(WIDTH)
  y, _ = hk.dynamic_unroll(core, jnp.swapaxes(x, 0, 1), core.initial_state(x.shape[0]))
  return linear()(y[-1])


class Lstm(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    y = nn.RNN(nn.LSTMCell(WIDTH))(x)
    return nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(y[:, -1]))


class Gated(nnx.Module):
  """The feed-forward layer of today's language models."""

  def __init__(self, activation, rngs):
    self.activation = activation
    self.gate, self.up, self.down = (
      nnx.Linear(WIDTH, WIDTH, kernel_init=gaussian, use_bias=False, rngs=rngs) for _ in range(3)
    )

  def __call__(self, x):
    return self.down(self.activation(self.gate(x)) * self.up(x))


MODELS = [
  models.haiku("glu", "gated units", glu, VECTORS, finding=GATED),
  models.plain_jax("swiglu", "gated units", swiglu, squares(3), HIDDEN, finding=GATED),
  models.nnx("gated layer, nnx", "gated units", Gated, HIDDEN, finding=GATED),
  models.haiku("highway", "highway", highway, VECTORS, finding=GATED + "|constant added|initial"),
  models.haiku(
    "squeeze and excite", "squeeze and excite", squeeze_excite, IMAGES, finding=GATED + "|pool"
  ),
  models.haiku(
    "film",
    "modulation",
    film,
    signals(32, also=(signals(8).arrays[0],)),
    finding=GATED + "|constant added",
  ),
  models.haiku("experts", "mixture of experts", experts, VECTORS, finding=GATED + "|softmax"),
  models.haiku("polynomial", "bilinear", factorised, VECTORS, finding=GATED),
  models.haiku("maxout", "maxout", maxout, VECTORS, finding="combination|max"),
  models.plain_jax(
    "hyper network", "hyper network", hyper_network, squares(3), HIDDEN, finding=GATED
  ),
  models.haiku("gru", "recurrent", gru, SEQUENCE, finding=NOT_READ),
  models.linen("lstm", "recurrent", Lstm, SEQUENCE, finding=NOT_READ),
]
