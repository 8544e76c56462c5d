"""Random networks, written twice: as code that is traced, and as the algebra."""

import dataclasses
import math

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet

WIDTH = 6  # for tracing: nothing is computed
INPUT = jax.ShapeDtypeStruct((2, 4, WIDTH), jnp.float32)  # batch, locations, features

# A network is ("layer", how), ("series", parts), ("sum", how, weights, branches),
# ("concat", widths, branches), ("repeat", count, part), ("wrap", how, part). It maps
# a signal of unit q, made by an affine layer, to another.


@dataclasses.dataclass
class Code:
  """Builds a network in Haiku, layer for layer."""

  activation: object
  width: int = WIDTH
  layers: int = 0

  def affine(self, x, width=None):
    self.layers += 1
    linear = hk.Linear(width or self.width, w_init=tatnet.ScaledUniformOrthogonal())
    return linear(x)

  def run(self, net, x):
    match net:
      case ("layer", "affine first"):
        return self.affine(self.activation(self.affine(x)))
      case ("layer", "einsum"):
        w = hk.get_parameter(
          f"w{self.layers}",
          (x.shape[-1], self.width),
          init=tatnet.ScaledUniformOrthogonal(),
        )
        self.layers += 1
        return jnp.einsum("...c,cd->...d", self.activation(x), w)
      case ("layer", "convolution"):
        if x.ndim == 2:
          return self.affine(self.activation(x))
        conv = hk.Conv1D(self.width, 3, w_init=tatnet.ScaledUniformOrthogonal())
        return conv(self.activation(x))
      case ("layer", _):
        return self.affine(self.activation(x))
      case ("series", parts):
        for part in parts:
          x = self.run(part, x)
        return x
      case ("sum", how, weights, branches):
        return add(how, weights, [self.run(branch, x) for branch in branches])
      case ("concat", shares, branches):
        widths = [share * self.width for share in shares]
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
      return function(x.astype(jnp.float16)).astype(x.dtype)
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


def trace(net, width=WIDTH, spatial=True):
  def forward(x, activation):
    code = Code(activation, width)
    return code.run(net, code.affine(x))

  return tatnet.trace(forward, INPUT if spatial else jax.ShapeDtypeStruct((2, width), jnp.float32))


LAYER_KINDS = ("affine first", "einsum", "convolution", "plain")
SUM_KINDS = ("each", "common factor", "differences", "divisions")
WRAPS = ("jit", "remat", "transpose", "reshape", "layer norm", "dropout", "cast", "minus")
IDENTITY = ("series", ())


def summed(how, pairs, with_identity):
  branches = [branch for _, branch in pairs]
  if with_identity:
    branches[0] = IDENTITY
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


@settings(deadline=None, max_examples=80)
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
