"""Activations of users: straight-through, custom rules, far kinks, learned shapes."""

import functools
import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp

from battery import models
from battery.initial import WIDTH, gaussian, squares, weights
from battery.signals import signals

HIDDEN = signals(WIDTH)
THREE, FOUR = squares(3), squares(4)
VALUE = r"initial|value|shape|slope|blend"


def straight_through(x):
  return x + jax.lax.stop_gradient(jnp.tanh(x) - x)


@jax.custom_vjp
def clipped_gradient(x):
  return jnp.tanh(x)


clipped_gradient.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * jnp.clip(1 - x * x, 0, 1),))


@jax.custom_jvp
def surrogate(x):
  return jnp.where(x > 0, x, 0.0)


surrogate.defjvp(lambda x, t: (surrogate(*x), jax.nn.sigmoid(4 * x[0]) * t[0]))

FUNCTIONS = {
  "straight-through tanh": straight_through,
  "custom vjp": clipped_gradient,
  "custom jvp": surrogate,
  "relu of 6": jax.nn.relu6,
  "hard swish": jax.nn.hard_swish,
  "hard tanh, scaled": lambda x: 0.1 * jnp.clip(10 * x, -20, 20),
  "clip far out": lambda x: jnp.clip(x, 0, 20),
  "gelu": jax.nn.gelu,
  "mish": jax.nn.mish,
  "snake": lambda x: x + jnp.sin(x) ** 2,
  "1 - tanh^2": lambda x: 1 - jnp.tanh(x) ** 2,
  "squared relu": lambda x: jax.nn.relu(x) ** 2,
  "bump": lambda x: jnp.exp(-(x**2)),
  "absolute": jnp.abs,
  "log(1 + x^2)": lambda x: jnp.log1p(x**2),
  "spline": lambda x: jnp.interp(x, jnp.linspace(-3, 3, 7), jnp.tanh(jnp.linspace(-3, 3, 7))),
  "arctan": jnp.arctan,
  "x sigmoid(1.702 x)": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def lone(params, x, function):
  """The function stands in the model itself; norms put its q right."""
  for w in params["w"]:
    x = function(x @ w)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
  return x


def lone_bare(params, x, function):
  """No norms: q goes where the function sends it."""
  *hidden, last = params["w"]
  for w in hidden:
    x = function(x @ w)
  return x @ last  # a function behind the last weights is none of the network's layers


def step(x):
  return (x > 0).astype(x.dtype) * math.sqrt(2)


def far_shift(params, x, activation):
  w = params["w"]
  return jax.nn.relu(activation(x @ w[0]) @ w[1] - 50) @ w[2]


def loud(params, x):
  """q = 10^4 at a kink that is near at that size, far at q = 1."""
  w = params["w"]
  return jnp.clip(100 * (x @ w[0]), -100, 20) @ w[1] / 60


def prelu(params, x, activation):
  del activation
  *hidden, last = params["w"]
  for w, slope in zip(hidden, params["slope"], strict=True):
    x = x @ w
    x = jnp.where(x >= 0, x, slope * x)
    x = x * jnp.sqrt(2 / (1 + 0.25**2))
  return x @ last


def blend(params, x, activation):
  """A learned share of the activation and of the identity."""
  for w, a in zip(params["w"], params["share"], strict=True):
    x = x @ w
    x = a * activation(x) + (1 - a) * x
  return x


def swish_with_a_slope(params, x):
  for w, slope in zip(params["w"], params["slope"], strict=True):
    x = x @ w
    x = x * jax.nn.sigmoid(slope * x)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
  return x


def splines(params, x):
  """KAN with a common grid: splines of every feature side by side, which weights combine."""
  grid = jnp.linspace(-3, 3, 7)
  first, *rest = params
  x = x @ first
  for w in rest:
    parts = [jnp.interp(x, grid, jnp.cos(k * grid)) for k in range(1, 4)]
    x = jnp.concatenate([*parts, jax.nn.silu(x)], -1)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True)) @ w
  return x


def learned_spline(params, x):
  """The values of a spline are parameters."""
  for w, values in zip(params["w"][:-1], params["values"], strict=True):
    x = jnp.interp(x @ w, jnp.linspace(-3, 3, 7), values)
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
  return x @ params["w"][-1]


def learned_spline_start(key):
  return {**squares(4)(key), "values": [jnp.tanh(jnp.linspace(-3, 3, 7))] * 3}


class PRelu(nn.Module):
  activation: object

  @nn.compact
  def __call__(self, x):
    for _ in range(3):
      x = nn.PReLU()(nn.Dense(WIDTH, kernel_init=gaussian)(x))
    return nn.Dense(WIDTH, kernel_init=gaussian)(x)


def equinox_prelu(key):
  keys = jax.random.split(key, 4)
  layers = [eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=k) for k in keys]
  return layers, [eqx.nn.PReLU() for _ in keys[1:]]


def equinox_apply(model, x, activation):
  del activation
  (*hidden, last), slopes = model
  for layer, act in zip(hidden, slopes, strict=True):
    x = act(layer(x))
  return last(x)


def jax_model(name, kind, apply, init=THREE, **options):
  return models.plain_jax(name, kind, apply, init, HIDDEN, **options)


Q = r"q far from 1|q is not 1"
MODELS = [
  *(
    jax_model(f"lone {name}", "functions of users", functools.partial(lone, function=f))
    for name, f in FUNCTIONS.items()
  ),
  *(
    jax_model(
      f"bare {name}",
      "functions of users",
      functools.partial(lone_bare, function=FUNCTIONS[name]),
      FOUR,
      q=None,
    )
    for name in ("gelu", "snake", "arctan", "hard swish")
  ),
  jax_model(
    "step", "discontinuous", functools.partial(lone, function=step), finding="discontinuous"
  ),
  jax_model(
    "relu far out",
    "far kinks",
    far_shift,
    finding="zero|far|constant|no C map|without a map",
    q=None,
  ),
  jax_model("loud clip", "far kinks", loud, squares(2), finding="q far", q=None),
  jax_model("prelu, arrays", "learned slopes", prelu, squares(4, slope=[0.25] * 3), given="arrays"),
  jax_model("prelu, shapes", "learned slopes", prelu, squares(4, slope=[0.25] * 3), finding=VALUE),
  jax_model(
    "blend, arrays",
    "blends",
    blend,
    squares(3, share=[0.5] * 3),
    given="arrays",
    finding="dependent|q",
    q=None,
  ),
  jax_model(
    "blend, shapes",
    "blends",
    blend,
    squares(3, share=[0.5] * 3),
    finding=VALUE + "|dependent",
    q=None,
  ),
  jax_model(
    "swish, arrays",
    "learned slopes",
    swish_with_a_slope,
    squares(3, slope=[1.0] * 3),
    given="arrays",
  ),
  jax_model(
    "swish, shapes",
    "learned slopes",
    swish_with_a_slope,
    squares(3, slope=[3.0] * 3),
    finding=VALUE,
  ),
  models.plain_jax(
    "splines on a grid",
    "splines",
    splines,
    weights((WIDTH, WIDTH), *[(4 * WIDTH, WIDTH)] * 2),
    HIDDEN,
  ),
  jax_model(
    "learned spline, arrays", "splines", learned_spline, learned_spline_start, given="arrays"
  ),
  jax_model(
    "learned spline, shapes",
    "splines",
    learned_spline,
    learned_spline_start,
    finding="unknown table",
  ),
  models.linen("prelu of linen, arrays", "learned slopes", PRelu, HIDDEN, given="arrays", q=None),
  models.linen("prelu of linen, shapes", "learned slopes", PRelu, HIDDEN, finding=VALUE, q=None),
  models.equinox(
    "prelu of equinox, arrays",
    "learned slopes",
    equinox_prelu,
    equinox_apply,
    HIDDEN,
    given="arrays",
    q=None,
  ),
  models.equinox(
    "prelu of equinox, shapes",
    "learned slopes",
    equinox_prelu,
    equinox_apply,
    HIDDEN,
    finding=VALUE,
    q=None,
  ),
]
