"""Constants that meet a signal: matrices, factors, masks, closed-over weights."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from battery import models
from battery.initial import WIDTH, gaussian, squares
from battery.models import TANH
from battery.signals import signals

HIDDEN, SET = signals(WIDTH), signals(8, WIDTH)
FOUR = squares(4)
RNG = np.random.default_rng(5)
SIZE = r"constant|q is not 1|array"
HADAMARD = scipy.linalg.hadamard(WIDTH) / math.sqrt(WIDTH)
SIGNS = RNG.choice([-1.0, 1.0], WIDTH)
MATRICES = {
  "twice the identity": 2 * np.eye(WIDTH),
  "hadamard": HADAMARD,
  "cosines": scipy.fft.dct(np.eye(WIDTH), norm="ortho", axis=0),
  "normal, variance 1": RNG.normal(size=(WIDTH, WIDTH)),
  "normal, variance 1/n": RNG.normal(size=(WIDTH, WIDTH)) / math.sqrt(WIDTH),
  "a permutation": np.eye(WIDTH)[RNG.permutation(WIDTH)],
  "a projection": np.diag(np.arange(WIDTH) % 2).astype(float),
  "minus its mean": np.eye(WIDTH) - 1 / WIDTH,
  "neighbours": scipy.linalg.circulant(np.r_[0.5, 0.25, np.zeros(WIDTH - 3), 0.25]),
}
TOKENS = {
  "ones": np.ones((8, 8)),
  "means": np.full((8, 8), 1 / 8),
  "causal means": np.tril(np.ones((8, 8))) / np.arange(1, 9)[:, None],
  "hadamard": scipy.linalg.hadamard(8) / math.sqrt(8),
  "a permutation": np.eye(8)[::-1],
  "three times the identity": 3 * np.eye(8),
  "differences": np.eye(8) - np.eye(8, k=1),
}


def of_features(params, x, activation, matrix):
  for w in params["w"]:
    x = activation(x @ w) @ jnp.asarray(matrix, x.dtype)
  return x


def before_activations(params, x, activation, matrix):
  for w in params["w"]:
    x = activation((x @ w) @ jnp.asarray(matrix, x.dtype))
  return x


def of_tokens(params, x, activation, matrix):
  for w in params["w"]:
    x = jnp.einsum("ij,bjd->bid", jnp.asarray(matrix, x.dtype), activation(x @ w))
  return x


def factor(params, x, activation, number):
  for w in params["w"]:
    x = number * activation(x @ w)
  return x


def undone(params, x, activation):
  for w in params["w"]:
    x = activation(x @ w * 3.0 / 3.0)
  return x


def sign_flips(params, x, activation):
  for w in params["w"]:
    x = activation(x @ w) * jnp.asarray(SIGNS, x.dtype)
  return x


def fixed_mask(params, x, activation):
  for w in params["w"]:
    x = activation(x @ w) * jnp.asarray(np.arange(WIDTH) % 2 * math.sqrt(2), x.dtype)
  return x


def fan_in_scaled(params, x, activation):
  """The 1/sqrt(n) of a parametrisation with weights of variance 1."""
  for w in params["w"]:
    x = activation(x @ (w / math.sqrt(WIDTH)))
  return x


def unit_variance(key):
  return {"w": [w * math.sqrt(WIDTH) for w in squares(4)(key)["w"]]}


# One draw for all seeds, so wide and orthogonal: its scatter does not average out.
WIDE = 4 * WIDTH
FROZEN = 2 * np.linalg.qr(RNG.normal(size=(WIDE, WIDTH)))[0].T.astype("f4")


def closed_over(params, x, activation):
  """The first layer is frozen: its weights are constants of the program."""
  x = activation(x @ FROZEN)
  for w in params["w"]:
    x = activation(x @ w)
  return x


def closed_over_too_large(params, x, activation):
  x = activation(x @ (2 * FROZEN))
  for w in params["w"]:
    x = activation(x @ w)
  return x


def random_features(params, x, activation):
  h = jnp.cos(x @ FROZEN * 2) * math.sqrt(2)
  for w in params["w"]:
    h = activation(h @ w)
  return h


def masked_weights(params, x, activation):
  """Sparse layers: a fixed half of the weights is 0."""
  mask = jnp.asarray(np.random.default_rng(6).random((WIDTH, WIDTH)) < 0.5, x.dtype)
  for w in params["w"]:
    x = activation(x @ (w * mask))
  return x


def masked_weights_scaled(params, x, activation):
  mask = jnp.asarray(np.random.default_rng(6).random((WIDTH, WIDTH)) < 0.5, x.dtype)
  for w in params["w"]:
    x = activation(x @ (w * mask * math.sqrt(2)))
  return x


def low_rank(params, x, activation):
  """A frozen matrix with a low-rank correction that starts at 0."""
  for w, (a, b) in zip(params["w"], params["low"], strict=True):
    x = activation(x @ w + (x @ a) @ b)
  return x


def low_rank_start(key):
  kernels = squares(3)(key)["w"]
  low = [(gaussian(key, (WIDTH, 8)), jnp.zeros([8, WIDTH])) for _ in kernels]
  return {"w": kernels, "low": low}


def plain(name, kind, apply, init=FOUR, inputs=HIDDEN, **options):
  return models.plain_jax(name, kind, apply, init, inputs, **options)


MODELS = [
  *(
    plain(
      f"features by {name}",
      "constant matrix",
      functools.partial(of_features, matrix=m),
      finding=SIZE,
    )
    for name, m in MATRICES.items()
  ),
  *(
    plain(
      f"before activations, {name}",
      "constant matrix",
      functools.partial(before_activations, matrix=MATRICES[name]),
      finding=SIZE,
    )
    for name in ("twice the identity", "hadamard", "neighbours")
  ),
  *(
    plain(
      f"tokens by {name}",
      "constant mixing",
      functools.partial(of_tokens, matrix=m),
      inputs=SET,
      finding=SIZE + "|locations|mix",
    )
    for name, m in TOKENS.items()
  ),
  plain("twice each layer", "constant factor", functools.partial(factor, number=2.0), finding=SIZE),
  plain("factor that is undone", "constant factor", undone),
  plain("sign flips", "constant array", sign_flips, finding=SIZE),
  plain("fixed mask", "constant array", fixed_mask, finding=SIZE),
  plain(
    "1/sqrt(n) in the network",
    "parametrisation",
    fan_in_scaled,
    unit_variance,
    finding=SIZE + "|weights|scale",
  ),
  plain(
    "closed-over weights",
    "closed-over weights",
    closed_over,
    squares(2, WIDE),
    activation=TANH,
    finding=SIZE,
  ),
  plain(
    "closed-over weights, too large",
    "closed-over weights",
    closed_over_too_large,
    squares(2, WIDE),
    activation=TANH,
    finding=SIZE,
  ),
  plain("random features", "closed-over weights", random_features, squares(2, WIDE), finding=SIZE),
  plain("sparse weights", "masked weights", masked_weights, finding=SIZE + "|weights|mask"),
  plain(
    "sparse weights, scaled",
    "masked weights",
    masked_weights_scaled,
    finding=SIZE + "|weights|mask",
  ),
  plain("low rank, arrays", "low-rank correction", low_rank, low_rank_start, given="arrays"),
  plain(
    "low rank, shapes", "low-rank correction", low_rank, low_rank_start, finding="sum|initial|value"
  ),
]
