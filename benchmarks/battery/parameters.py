"""What acts on the signal is computed from parameters: signs, norms, sums, masks, noise."""

import functools
import math

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp

from battery import models
from battery.initial import WIDTH, gaussian, gaussian_in_haiku, squares, weights
from battery.signals import signals

HIDDEN, VECTORS, SET = signals(WIDTH), signals(32), signals(6, WIDTH)
FUNCTION = r"function of param|q is not 1"


def through(function):
  """Layers whose weights are a function of parameters."""

  def apply(params, x, activation):
    for w in params["w"]:
      x = activation(x @ function(w))
    return x

  return apply


def unit_columns(w):
  return w / jnp.linalg.norm(w, axis=0)


def binary(w):
  """XNOR-Net: signs times the mean of what they replace."""
  return jnp.sign(w) * jnp.mean(jnp.abs(w))


def cosines(params, x, activation, size):
  """Each unit is the cosine of the signal and its weights, times a number."""
  for w in params["w"]:
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    x = activation(size * (x @ unit_columns(w)))
  return x


def added(params, x, activation):
  """Two kernels made into one, as in re-parametrised convolutions."""
  a, b, *rest = params["w"]
  x = activation(x @ (0.6 * a + 0.8 * b))
  for w in rest:
    x = activation(x @ w)
  return x


def averaged(params, x, activation):
  a, b, *rest = params["w"]
  x = activation(x @ ((a + b) / 2))
  for w in rest:
    x = activation(x @ w)
  return x


def entry_by_entry(params, x, activation):
  return activation(x @ (params["w"][0] * params["w"][1]))


def factorised(params, x, activation):
  """A matrix as a product of two."""
  a, b, *rest = params["w"]
  x = activation(x @ (a @ b))
  for w in rest:
    x = activation(x @ w)
  return x


def synthesizer(params, x, activation):
  """Attention whose scores are parameters: the softmax of a matrix mixes tokens."""
  first, scores, last = params
  x = activation(x @ first)
  return activation(jnp.einsum("ij,bjd->bid", jax.nn.softmax(scores), x) @ last)


def haiku_layers(x, activation, change):
  for index in range(3):
    w = hk.get_parameter(f"w{index}", [x.shape[-1], WIDTH], init=gaussian_in_haiku)
    x = activation(x @ change(w, index))
  return x


def drop_connect(w, index):
  del index
  return hk.dropout(hk.next_rng_key(), 0.5, w)


def noisy(w, index):
  del index
  return w + 0.1 * jax.random.normal(hk.next_rng_key(), w.shape)


def spectral(w, index):
  return hk.SpectralNorm(name=f"norm{index}")(w)


class EndsWithNorm(nn.Module):
  """A norm ends each branch, with a gain that starts where training goes best: at 0."""

  activation: object
  gain: float

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(WIDTH, kernel_init=gaussian)(x)
    for _ in range(3):
      y = nn.Dense(WIDTH, kernel_init=gaussian)(self.activation(x))
      start = nn.initializers.constant(self.gain)
      x = 0.6 * x + 0.8 * nn.LayerNorm(scale_init=start)(y)
    return x


def plain(name, kind, apply, init=None, inputs=HIDDEN, **options):
  return models.plain_jax(name, kind, apply, init or squares(3), inputs, **options)


KIND = "functions of parameters"
MODELS = [
  *(
    plain(f"weights by {name}", KIND, through(function), finding=finding)
    for name, function, finding in (
      ("sign", jnp.sign, FUNCTION),
      ("binary", binary, FUNCTION),
      ("size", jnp.abs, FUNCTION),
      ("square", jnp.square, FUNCTION),
      ("softplus", jax.nn.softplus, FUNCTION),
      ("clipping", lambda w: jnp.clip(w, -0.05, 0.05), FUNCTION),
      ("rounding", lambda w: jnp.round(w * 127) / 127, FUNCTION),
      ("unit columns", unit_columns, ""),
      ("length", lambda w: w / jnp.linalg.norm(w), FUNCTION),
      ("size of entries", lambda w: w / jnp.sqrt(WIDTH * jnp.mean(w**2)), ""),
      ("symmetry", lambda w: (w + w.T) / math.sqrt(2), FUNCTION),
    )
  ),
  plain("cosine layers", "cosine layers", functools.partial(cosines, size=math.sqrt(WIDTH))),
  plain(
    "cosine layers as they are",
    "cosine layers",
    functools.partial(cosines, size=1.0),
    finding=FUNCTION,
  ),
  plain("added weights", "sums of weights", added),
  plain("averaged weights", "sums of weights", averaged, finding=FUNCTION),
  plain("weights times weights", "products of weights", entry_by_entry, finding=FUNCTION),
  plain("factorised weights", "products of weights", factorised),
  plain(
    "synthesizer",
    "constant attention",
    synthesizer,
    weights((WIDTH, WIDTH), (6, 6), (WIDTH, WIDTH)),
    SET,
    finding=FUNCTION,
  ),
  *(
    models.haiku(name, kind, haiku_layers, VECTORS, arguments={"change": f}, finding=FUNCTION)
    for name, kind, f in (
      ("drop connect", "noise on weights", drop_connect),
      ("noise on weights", "noise on weights", noisy),
      ("spectral norm", "spectral norm", spectral),
    )
  ),
  *(
    models.linen(
      f"norm ends branches, gain {gain}, {given}",
      "gains",
      lambda a, gain=gain: EndsWithNorm(a, gain),
      VECTORS,
      given=given,
      finding="gain|q is not 1",
    )
    for gain, given in ((0, "shapes"), (0, "arrays"), (1, "shapes"))
  ),
  models.linen(
    "norm ends branches, gain 1, arrays",
    "gains",
    lambda a: EndsWithNorm(a, 1),
    VECTORS,
    given="arrays",
  ),
]
