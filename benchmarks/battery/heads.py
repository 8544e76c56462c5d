"""What stands at the output: heads, losses, metrics, several views. None is a hidden layer."""

import haiku as hk
import jax
import jax.numpy as jnp

from battery import models
from battery.initial import WIDTH, squares
from battery.layers import linear
from battery.signals import signals

VECTORS, HIDDEN = signals(32), signals(WIDTH)
TWO = signals(WIDTH, also=(signals(WIDTH).arrays[0][::-1],))


def body(x, activation, count=4):
  for _ in range(count):
    x = activation(linear()(x))
  return x


ENDS = {
  "softmax": lambda _, y: jax.nn.softmax(y),
  "sigmoid": lambda _, y: jax.nn.sigmoid(y),
  "tanh": lambda _, y: jnp.tanh(y),
  "softplus std": lambda _, y: (y[:, :8], jax.nn.softplus(y[:, 8:]) + 1e-3),
  "clipped log std": lambda _, y: (y[:, :8], jnp.clip(y[:, 8:], -5, 2)),
  "metric of size": lambda _, y: (y, {"size": jnp.mean(jnp.abs(y))}),
  "metric of dead units": lambda h, y: (y, {"dead": jnp.mean(h == 0)}),
  "metric of variance": lambda h, y: (y, {"variance": jnp.var(h)}),
  "entropy": lambda _, y: (y, -jnp.sum(jax.nn.softmax(y) * jax.nn.log_softmax(y), -1)),
  "log sum exp": lambda _, y: jnp.mean(jax.nn.logsumexp(y, -1)),
  "unit length": lambda _, y: y / jnp.linalg.norm(y, axis=-1, keepdims=True),
  "rescaled": lambda _, y: 3 * y + 1,
  "temperature": lambda _, y: jax.nn.log_softmax(y / 0.07),
  "arg max": lambda _, y: (y, jnp.argmax(y, -1)),
  "norm before the head": lambda h, _: linear(16)(hk.RMSNorm(-1)(h)),
  "energy": lambda _, y: jnp.sum(y**2, -1),
}


def with_end(x, activation, end):
  h = body(x, activation)
  return ENDS[end](h, linear(16)(h))


def dueling(x, activation):
  h = body(x, activation)
  value, advantage = linear(1)(h), linear(16)(h)
  return value + advantage - advantage.mean(-1, keepdims=True)


def actor_critic(x, activation):
  h = body(x, activation, 3)
  return jax.nn.softmax(linear(6)(activation(linear()(h)))), linear(1)(activation(linear()(h)))


def variational(x, activation):
  h = body(x, activation, 2)
  mean, log_variance = linear(16)(h), linear(16)(h)
  noise = jax.random.normal(hk.next_rng_key(), mean.shape)
  z = mean + jnp.exp(log_variance / 2) * noise
  return linear(32)(body(z, activation, 2)), mean, log_variance


def with_loss(params, x, labels, activation):
  for w in params["w"][:-1]:
    x = activation(x @ w)
  logits = x @ params["w"][-1]
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
  return -chosen.mean()


def squared_loss(params, x, target, activation):
  for w in params["w"]:
    x = activation(x @ w)
  return jnp.mean((x - target) ** 2), x


def encode(params, x, activation):
  for w in params["w"]:
    x = activation(x @ w)
  return x


def siamese(params, a, b, activation):
  return encode(params, a, activation), encode(params, b, activation)


def similarity(params, a, b, activation):
  a, b = (encode(params, x, activation) for x in (a, b))
  return jnp.sum(a * b, -1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))


def contrastive(params, a, b, activation):
  a, b = (encode(params, x, activation) for x in (a, b))
  return jax.nn.log_softmax(a @ b.T / 0.1)


def same_layer_twice(params, x, activation):
  """A layer applied twice to the same input, as code that recomputes does."""
  w = params["w"]
  return activation(0.6 * activation(x @ w[0]) @ w[1] + 0.8 * activation(x @ w[0]) @ w[2])


def shared_head(params, x, activation):
  """One classifier for each location and for the mean of them."""
  w = params["w"]
  h = activation(activation(x @ w[0]) @ w[1])
  return {"a_location": h @ w[2], "whole": h.mean(1) @ w[2]}


def deep_supervision(x, activation):
  outputs = []
  for _ in range(3):
    x = activation(linear()(x))
    outputs.append(linear(8)(x))
  return x, outputs


HEAD, END = "head", "activation"
MODELS = [
  *(
    models.haiku(f"head: {end}", HEAD, with_end, VECTORS, arguments={"end": end}, at=END)
    for end in ENDS
  ),
  models.haiku("dueling", "dueling", dueling, VECTORS, at=END),
  models.haiku("actor and critic", "several heads", actor_critic, VECTORS, at=END),
  models.haiku("deep supervision", "several heads", deep_supervision, VECTORS, at=END),
  models.haiku(
    "variational", "variational", variational, VECTORS, at=END, finding="noise|gating|random"
  ),
  models.plain_jax(
    "cross entropy", "losses", with_loss, squares(4), signals(WIDTH, also=(jnp.arange(4),)), at=END
  ),
  models.plain_jax(
    "squared loss",
    "losses",
    squared_loss,
    squares(4),
    signals(WIDTH, also=(jnp.ones([4, WIDTH]),)),
    at=END,
  ),
  models.plain_jax("siamese", "two views", siamese, squares(4), TWO),
  models.plain_jax(
    "similarity", "two views", similarity, squares(4), TWO, at=END, finding="product|gating"
  ),
  models.plain_jax(
    "contrastive", "two views", contrastive, squares(4), TWO, at=END, finding="product|gating"
  ),
  models.plain_jax(
    "the same layer twice", "recomputed layer", same_layer_twice, squares(3), HIDDEN
  ),
  models.plain_jax("shared head", "shared head", shared_head, squares(3), signals(4, WIDTH)),
]
