"""Random networks as JAX code: streams that read each other, and what may go wrong in them.

A graph is a list of steps. Each reads one or two of the streams there are and adds a
new one; the last is read by a nonlinear layer and an affine one, so nothing before it
stands at the output. `faults` says what of a graph changes q or c in a way that the maps
must know of or a finding must name.
"""

import dataclasses
import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from battery import models
from battery.signals import signals

WIDTH, TOKENS = 1024, 4
INPUTS = signals(TOKENS, WIDTH)
HADAMARD = scipy.linalg.hadamard(WIDTH) / math.sqrt(WIDTH)
NEIGHBOURS = np.eye(TOKENS) / 2 + np.roll(np.eye(TOKENS), 1, 0) / 2

# What may be found of a step that is no identity.
FAULTS = {
  "layer norm of an active stream": r"mean|centr|norm",
  "dropout": r"dropout|noise|random",
  "pool": r"pool|averag|locations",
  "mixed tokens": r"constant|mix|locations",
  "twice": r"constant|q is not 1|not normalised",
  "twice by a matrix": r"constant|q is not 1|not normalised",
  "plain sum": r"not normalised",
  "activated sum": r"activated term",
  "sum of weights": r"q is not 1|not normalised",
  "sign of weights": r"function of parameters",
}
HARMLESS = (
  "layer", "affine", "sum", "cross", "halves", "rms norm", "layer norm", "orthogonal", "undone",
  "roll", "same layer again", "unit columns", "mixed weights",
)  # fmt: skip

WEIGHTS = {
  "layer": 1,
  "affine": 1,
  "sum": 3,
  "cross": 3,
  "halves": 3,
  "same layer again": 4,
  "plain sum": 2,
  "activated sum": 3,
  "sum of weights": 2,
  "sign of weights": 1,
  "unit columns": 1,
  "mixed weights": 2,
}


@dataclasses.dataclass(frozen=True)
class Stream:
  """A signal; `active` if it is made of outputs of activations, whose mean is not 0."""

  value: jax.Array
  active: bool


@functools.lru_cache(1)
def matrices():
  """A few Gaussian matrices."""
  normals = np.random.default_rng(0).standard_normal((4, WIDTH, WIDTH), np.float32)
  return normals / np.float32(math.sqrt(WIDTH))


def kernels(key, count):
  """More of them: with new signs of rows and columns, which makes them uncorrelated."""

  def new(key, which):
    signs = jax.random.rademacher(key, (2, WIDTH), jnp.float32)
    return signs[0, :, None] * matrices()[which] * signs[1]

  return [new(key, i % len(matrices())) for i, key in enumerate(jax.random.split(key, count))]


@dataclasses.dataclass
class Code:
  """Runs a graph."""

  activation: object
  weights: list

  def affine(self, x, part=slice(None)):
    return x @ self.weights.pop()[:, part]

  def step(self, name, streams, first, second):
    a, b = streams[first], streams[second]
    x = a.value
    match name:
      case "layer":
        return Stream(self.activation(self.affine(x)), True)
      case "affine":
        return Stream(self.affine(x), False)
      case "sum":  # a stream and a branch of its own
        return Stream(
          0.6 * self.affine(x) + 0.8 * self.affine(self.activation(self.affine(x))), False
        )
      case "cross":  # a stream and what another one says
        y = self.affine(self.activation(self.affine(b.value)))
        return Stream(math.sqrt(0.5) * (self.affine(x) + y), False)
      case "halves":
        parts = [self.affine(x, slice(WIDTH // 4)), self.affine(b.value, slice(WIDTH // 4, None))]
        return Stream(self.affine(jnp.concatenate(parts, -1)), False)
      case "rms norm":
        return Stream(x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6), a.active)
      case "layer norm" | "layer norm of an active stream":
        x = x - x.mean(-1, keepdims=True)
        return Stream(x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6), False)
      case "orthogonal":
        return Stream(x @ jnp.asarray(HADAMARD, x.dtype), a.active)
      case "undone":
        return Stream(x * 3.0 / 3.0, a.active)
      case "roll":
        return Stream(jnp.roll(x, 1, 1), a.active)
      case "same layer again":  # two readers of one activated stream
        h = self.activation(self.affine(x))
        return Stream(
          0.6 * self.affine(h) + 0.8 * self.affine(self.activation(self.affine(h))), False
        )
      case "dropout":
        key = jax.random.key(len(self.weights))
        keep = jax.random.bernoulli(key, 0.6, x.shape)
        return Stream(jnp.where(keep, x / 0.6, 0), a.active)
      case "pool":
        x = x.reshape(x.shape[0], -1, 2, WIDTH).mean(2)
        return Stream(jnp.repeat(x, 2, 1), a.active)
      case "mixed tokens":
        return Stream(jnp.einsum("ij,bjd->bid", jnp.asarray(NEIGHBOURS, x.dtype), x), a.active)
      case "twice":
        return Stream(2 * x, a.active)
      case "twice by a matrix":
        return Stream(x @ (2 * jnp.eye(WIDTH, dtype=x.dtype)), a.active)
      case "unit columns":
        w = self.weights.pop()
        return Stream(x @ (w / jnp.linalg.norm(w, axis=0)), False)
      case "mixed weights":
        return Stream(x @ (0.6 * self.weights.pop() - 0.8 * self.weights.pop()), False)
      case "sum of weights":
        return Stream(x @ (self.weights.pop() + self.weights.pop()), False)
      case "sign of weights":
        return Stream(x @ jnp.sign(self.weights.pop()), False)
      case "activated sum":  # as in version 1 of ResNets
        h = self.activation(self.affine(x))
        y = self.affine(self.activation(self.affine(h)))
        return Stream(self.activation(0.8 * h + 0.6 * y), True)
      case "plain sum":
        return Stream(self.affine(x) + self.affine(b.value), False)
    raise AssertionError(name)


def run(steps, weights, x, activation):
  """The graph on an input."""
  code = Code(activation, list(weights))
  streams = [Stream(code.affine(x), False)]
  for name, first, second in steps:
    streams.append(code.step(name, streams, first, second))
  return code.affine(activation(code.affine(streams[-1].value)))


def graph(seed: int, length: int = 5, fault: str | None = None):
  """Steps of a random graph, with one fault in it if asked."""
  rng = random.Random(seed)
  steps, active = [], [False]
  place = rng.randrange(1, length) if fault else None
  for i in range(length):
    name = fault if i == place else rng.choice(HARMLESS)
    # Mostly the newest stream, at times an older one.
    first = len(active) - 1 if rng.random() < 0.7 else rng.randrange(len(active))
    if name == "layer norm" and active[first]:
      name = "rms norm"
    if name == "layer norm of an active stream" and not active[first]:
      steps.append(("layer", first, first))
      active.append(True)
      first = len(active) - 1
    if i == place:  # what follows must read it
      first = len(active) - 1
    steps.append((name, first, rng.randrange(len(active))))
    keeps = name in ("rms norm", "orthogonal", "undone", "roll", "dropout", "pool", "mixed tokens")
    active.append(
      name in ("layer", "activated sum") or (active[first] and (keeps or name.startswith("twice")))
    )
  return tuple(steps)


def model(seed: int, fault: str | None, activation) -> models.Model:
  """A graph as a model of the battery."""
  steps = graph(seed, fault=fault)

  def apply(params, x, activation):
    return run(steps, params, x, activation)

  def start(key):
    return kernels(key, 3 + sum(WEIGHTS.get(name, 0) for name, _, _ in steps))

  finding = FAULTS[fault] if fault else ""
  return models.plain_jax(
    f"graph {seed}", "random graph", apply, start, INPUTS, activation=activation, finding=finding
  )
