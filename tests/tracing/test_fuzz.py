"""Random networks, written twice: as code that is traced, and as the algebra."""

import dataclasses
import functools
import math
import random

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet

WIDTH = 6  # for tracing: nothing is computed
INPUT = jax.ShapeDtypeStruct((2, 4, WIDTH), jnp.float32)  # batch, locations, features

# A network is ("layer", how), ("series", parts), ("sum", how, weights, branches),
# ("concat", widths, branches), ("repeat", count, part), ("wrap", how, part). It maps
# a signal of unit q, made by an affine layer, to another.


class Einsum(hk.Module):
  def __init__(self, width, w_init):
    super().__init__()
    self.width, self.w_init = width, w_init

  def __call__(self, x):
    shape = x.shape[-1], self.width
    w = hk.get_parameter("w", shape, init=self.w_init)
    return jnp.einsum("...c,cd->...d", x, w)


@dataclasses.dataclass
class Code:
  """Builds a network in Haiku, layer for layer."""

  activation: object
  width: int = WIDTH
  w_init: object = None

  def affine(self, x, width=None):
    return hk.Linear(width or self.width, w_init=self.w_init)(x)

  def run(self, net, x):
    match net:
      case ("layer", "affine first"):
        return self.affine(self.activation(self.affine(x)))
      case ("layer", "einsum"):
        return Einsum(self.width, self.w_init or jnp.ones)(self.activation(x))
      case ("layer", "convolution"):
        return hk.Conv1D(self.width, 3)(self.activation(x))
      case ("layer", _):
        return self.affine(self.activation(x))
      case ("series", parts):
        for part in parts:
          x = self.run(part, x)
        return x
      case ("sum", how, weights, branches):
        return add(how, weights, [self.run(branch, x) for branch in branches])
      case ("concat", shares, branches):
        widths = [share * (self.width // 4) for share in shares]
        signals = [
          self.affine(self.run(branch, x), width)
          for branch, width in zip(branches, widths, strict=True)
        ]
        return self.affine(jnp.concatenate(signals, axis=-1))
      case ("repeat", count, part):
        return hk.experimental.layer_stack(count)(lambda x: self.run(part, x))(x)
      case ("wrap", how, part):
        return wrap(how, lambda x: self.run(part, x), x)
    raise AssertionError(net)


def add(how, weights, signals):
  """A weighted sum, in one of several algebraic orders."""
  if how == "each":
    return sum(w * s for w, s in zip(weights, signals, strict=True))
  if how == "common factor":
    first = weights[0]
    return first * sum(w / first * s for w, s in zip(weights, signals, strict=True))
  if how == "differences":
    total = weights[-1] * signals[-1]
    for w, s in zip(weights[-2::-1], signals[-2::-1], strict=True):
      total = w * s - (-total)
    return total
  scale = math.prod(weights)  # divisions
  return sum(s * (w / scale) for w, s in zip(weights, signals, strict=True)) / (1 / scale)


def wrap(how, function, x):
  """Something around a part that changes no angle."""
  match how:
    case "jit":
      return jax.jit(lambda x: x.reshape(x.shape))(function(x))
    case "remat":
      return hk.remat(function)(x)
    case "transpose":
      return function(jnp.swapaxes(x, 0, -2)).swapaxes(0, -2)
    case "reshape":
      return function(x.reshape(-1, x.shape[-1])).reshape(x.shape)
    case "layer norm":
      return function(hk.LayerNorm(-1, True, True)(x))
    case "dropout":
      return hk.dropout(hk.next_rng_key(), 0.2, function(x))
    case "cast":
      return function(x).astype(jnp.bfloat16).astype(x.dtype)
    case "minus":
      return -function(-x)
  raise AssertionError(how)


def algebra(net):
  match net:
    case ("layer", _):
      return tatnet.nonlinear()
    case ("series", parts):
      return tatnet.sequence(*map(algebra, parts))
    case ("sum", _, weights, branches):
      return tatnet.weighted_sum(*zip(weights, map(algebra, branches), strict=True))
    case ("concat", shares, branches):
      total = sum(shares)
      weights = [math.sqrt(share / total) for share in shares]
      return tatnet.weighted_sum(*zip(weights, map(algebra, branches), strict=True))
    case ("repeat", count, part):
      return tatnet.sequence(*[algebra(part)] * count)
    case ("wrap", _, part):
      return algebra(part)
  raise AssertionError(net)


def trace(net):
  def forward(x, activation):
    code = Code(activation)
    return code.run(net, code.affine(x))

  return tatnet.trace(forward, INPUT)


LAYER_KINDS = ("affine first", "einsum", "convolution", "plain")
SUM_KINDS = ("each", "common factor", "differences", "divisions")
WRAPS = ("jit", "remat", "transpose", "reshape", "layer norm", "dropout", "cast", "minus")
IDENTITY = ("series", ())


def summed(how, pairs, with_identity):
  first, *rest = [branch for _, branch in pairs]
  # All branches but one end with weights of their own, as the rules ask.
  branches = [IDENTITY if with_identity else first]
  branches += [("series", (branch, ("layer", "plain"))) for branch in rest]
  norm = math.sqrt(sum(weight**2 for weight, _ in pairs))
  return ("sum", how, tuple(weight / norm for weight, _ in pairs), tuple(branches))


def larger(nets):
  pairs = st.tuples(st.floats(0.1, 1), nets)
  shares = st.tuples(st.integers(1, 4), nets)
  return (
    st.lists(nets, min_size=1, max_size=4).map(lambda parts: ("series", tuple(parts)))
    | st.builds(
      summed, st.sampled_from(SUM_KINDS), st.lists(pairs, min_size=2, max_size=3), st.booleans()
    )
    | st.lists(shares, min_size=2, max_size=3).map(
      lambda parts: ("concat", *map(tuple, zip(*parts, strict=True)))
    )
    | st.tuples(st.just("repeat"), st.integers(1, 3), nets)
    | st.tuples(st.just("wrap"), st.sampled_from(WRAPS), nets)
  )


NETS = st.recursive(st.tuples(st.just("layer"), st.sampled_from(LAYER_KINDS)), larger, max_leaves=7)


@settings(deadline=None, max_examples=80, print_blob=False)
@given(net=NETS, slope=st.floats(1.0, 1.5), curvature=st.floats(0.0, 1.0))
def test_the_code_is_read_as_the_algebra(net, slope, curvature):
  topology, expected = trace(net), algebra(net)
  assert topology.num_nonlinear == expected.num_nonlinear
  for x, r in (
    (1.0, lambda y: slope * y),
    (0.0, lambda y: y + curvature),
    (0.0, lambda y: 0.5 * (1 + y * y) * 0.9),
  ):
    assert topology.compose(x, r) == pytest.approx(expected.compose(x, r), rel=1e-12)
    assert topology.maximum(x, r) == pytest.approx(expected.maximum(x, r), rel=1e-12)


def random_net(rng, layers):
  """A network with at most so many layers in a row."""
  if layers <= 1:
    return ("layer", rng.choice(("affine first", "einsum", "plain")))
  kind = rng.choice(("series", "series", "sum", "concat", "repeat", "wrap"))
  half = layers // 2
  match kind:
    case "series":
      return ("series", (random_net(rng, half), random_net(rng, layers - half)))
    case "sum":
      pairs = [(rng.uniform(0.2, 1), random_net(rng, layers)) for _ in range(2)]
      return summed(rng.choice(SUM_KINDS), pairs, rng.random() < 0.5)
    case "concat":
      return ("concat", (1, 2), (random_net(rng, half), random_net(rng, half)))
    case "repeat":
      return ("repeat", 2, random_net(rng, half))
  return ("wrap", rng.choice(("jit", "remat", "layer norm", "minus")), random_net(rng, layers))


def unit(name, scale=1.0):
  """An activation of unit q, not otherwise shaped."""
  plain = tatnet.TransformedActivation(name, input_scale=scale)
  return dataclasses.replace(plain, output_scale=1 / math.sqrt(plain.local.q))


@pytest.fixture(scope="module")
def matrices():
  """A few SUO matrices; decompositions of this size take their time."""
  keys = jax.random.split(jax.random.key(0), 3)
  return jnp.stack([tatnet.scaled_uniform_orthogonal(key, (1024, 1024)) for key in keys])


def with_new_signs(matrices, shape, dtype):
  """Another SUO matrix: one of those given, or a part of it, with random signs.

  Signs of rows and columns leave the distribution of a uniform orthogonal matrix
  as it is, and make two uses of it uncorrelated.
  """
  inputs, outputs = shape
  which, signs = jax.random.split(hk.next_rng_key())
  matrix = matrices[jax.random.randint(which, (), 0, len(matrices)), :inputs, :outputs]
  signs = jax.random.rademacher(signs, (inputs + outputs,), dtype)
  return max(math.sqrt(outputs / inputs), 1.0) * signs[:inputs, None] * matrix * signs[inputs:]


def cosines(net, activation, matrices, seeds):
  """At the output, 1024 wide, for inputs at cosines of 0 and 0.6; a row for each seed."""
  x = jnp.zeros([3, 1024]).at[[0, 1, 2, 2], [0, 1, 0, 2]].set(jnp.array([1, 1, 0.6, 0.8]))
  x = x * math.sqrt(1024)

  @functools.partial(jax.vmap, in_axes=(0, None))
  def measure(key, matrices):
    def forward(x):
      code = Code(activation, 1024, functools.partial(with_new_signs, matrices))
      return code.run(net, code.affine(x))

    network = hk.transform(forward)
    y = network.apply(network.init(key, x), key, x)
    y = y / jnp.linalg.norm(y, axis=1, keepdims=True)
    return jnp.array([y[0] @ y[1], y[0] @ y[2]])

  return np.asarray(jax.jit(measure)(jax.random.split(jax.random.key(1), seeds), matrices))


@pytest.mark.parametrize(("seed", "name"), [(0, "leaky_relu"), (1, "silu"), (4, "tanh")])
def test_the_measured_kernel_is_the_traced_one(seed, name, matrices):
  net = random_net(random.Random(seed), 8)
  topology = trace(net)
  assert topology.num_nonlinear >= 3
  activation = unit(name)
  measured = cosines(net, activation, matrices, 8)
  predicted = tatnet.cmap(topology, activation, np.array([0.0, 0.6]))
  # Cosines of a net of width n scatter by about sqrt(layers / n): 0.03 for one layer.
  error = measured.std(0, ddof=1) / math.sqrt(len(measured))
  np.testing.assert_array_less(np.abs(measured.mean(0) - predicted), 4 * error + 0.01)
