"""Sums of branches: any way of writing one is read alike; those that change q are found."""

import math
import re

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet

INPUT = jax.ShapeDtypeStruct((4, 8), jnp.float32)
SQUARES = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 9
R2, R3 = math.sqrt(0.5), math.sqrt(1 / 3)


def read(combine, branches=2, parameters=SQUARES):
  """Topology of combine(branch_0, branch_1, ...) >> layer; branch k has k layers."""

  def apply(w, x, activation):
    w = iter(w)
    x = x @ next(w)
    signals = []
    for depth in range(branches):
      y = x
      for _ in range(depth):
        y = activation(y) @ next(w)
      signals.append(y)
    return activation(combine(*signals) @ next(w))

  return tatnet.trace_apply(apply, parameters, INPUT)


def expected(*weights):
  branches = [tatnet.identity(), *map(tatnet.chain, range(1, len(weights)))]
  total = tatnet.weighted_sum(*zip(weights, branches, strict=True))
  return total >> tatnet.nonlinear()


TWO = {
  "(a + b) sqrt(1/2)": (lambda a, b: (a + b) * R2, (R2, R2)),
  "(a + b) / sqrt(2)": (lambda a, b: (a + b) / jnp.sqrt(2.0), (R2, R2)),
  "(a - b) / sqrt(2)": (lambda a, b: (a - b) / 2**0.5, (R2, R2)),
  "sqrt(1/2) a + b sqrt(1/2)": (lambda a, b: R2 * a + b * R2, (R2, R2)),
  "0.6 a + 0.8 b": (lambda a, b: 0.6 * a + 0.8 * b, (0.6, 0.8)),
  "0.8 b - 0.6 a": (lambda a, b: 0.8 * b - 0.6 * a, (0.6, 0.8)),
  "-(0.6 a + 0.8 b)": (lambda a, b: -(0.6 * a + 0.8 * b), (0.6, 0.8)),
  "(3 a + 4 b) / 5": (lambda a, b: (3 * a + 4 * b) / 5, (0.6, 0.8)),
  "0.6 (a + b 4 / 3)": (lambda a, b: 0.6 * (a + b * 4 / 3), (0.6, 0.8)),
  "0.6 a + b / 1.25": (lambda a, b: 0.6 * a + b / 1.25, (0.6, 0.8)),
  "a + b - 0.4 a - 0.2 b": (lambda a, b: a + b - 0.4 * a - 0.2 * b, (0.6, 0.8)),
  "0.6 a + 0 + 0.8 b": (lambda a, b: 0.6 * a + 0.0 + 0.8 * b, (0.6, 0.8)),
  "jitted": (jax.jit(lambda a, b: 0.6 * a + 0.8 * b), (0.6, 0.8)),
  "rounded to six digits": (lambda a, b: 0.707107 * a + 0.707107 * b, (R2, R2)),
  "0.6 and 0.8 of 32 bits": (lambda a, b: np.float32(0.6) * a + jnp.float32(0.8) * b, (0.6, 0.8)),
  "0 a + b": (lambda a, b: 0.0 * a + b, (0.0, 1.0)),
  "a + 0 b": (lambda a, b: a + 0.0 * b, (1.0, 0.0)),
  "sum of a list": (lambda a, b: sum([0.6 * a, 0.8 * b]), (0.6, 0.8)),
  "reshaped and back": (
    lambda a, b: (0.6 * a.reshape(-1) + 0.8 * b.reshape(-1)).reshape(a.shape),
    (0.6, 0.8),
  ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_sum_of_two(name):
  combine, weights = TWO[name]
  topology, by_hand = read(combine), expected(*weights)
  # Six digits of sqrt(1/2) are what they are; everything else agrees to rounding.
  tolerance = 1e-6 if name == "rounded to six digits" else 1e-12
  for x, r in ((0.0, lambda y: y + 1), (1.0, lambda y: 1.3 * y)):
    assert topology.maximum(x, r) == pytest.approx(by_hand.maximum(x, r), abs=tolerance)
  assert topology == by_hand


THREE = {
  "left first": lambda a, b, c: ((a + b) + c) * R3,
  "right first": lambda a, b, c: R3 * (a + (b + c)),
  "each": lambda a, b, c: a * R3 + b * R3 + R3 * c,
  "two, then one": lambda a, b, c: (a + b) * R2 * math.sqrt(2 / 3) + R3 * c,
  "differences": lambda a, b, c: (a - (b - c)) / 3**0.5,
}


@pytest.mark.parametrize("name", THREE)
def test_a_sum_of_three(name):
  assert read(THREE[name], branches=3) == expected(R3, R3, R3)


def sum_finding(call):
  with pytest.raises(tatnet.TopologyError) as caught:
    call()
  (finding,) = caught.value.findings
  assert finding.kind == "sum not normalised"
  return finding


def numbers(text):
  return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


COEFFICIENTS = st.floats(0.05, 20) | st.floats(-20, -0.05)


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(COEFFICIENTS, min_size=2, max_size=4))
def test_the_printed_weights_make_it_clean(weights):
  """Weights out of a message, put into the model, leave nothing to complain of."""

  def weighted(weights):
    return lambda *signals: sum(w * s for w, s in zip(weights, signals, strict=True))

  total = math.fsum(w * w for w in weights)
  if abs(total - 1) < 1e-3:
    weights, total = [2 * w for w in weights], 4 * total
  finding = sum_finding(lambda: read(weighted(weights), len(weights)))
  *found, squares = numbers(finding.what)
  assert found == pytest.approx(weights, rel=1e-8)
  assert squares == pytest.approx(total, rel=1e-8)
  divisor, *fixed = numbers(finding.remedy.partition("divide")[2])
  unit = [w / math.sqrt(total) for w in weights]
  assert fixed == pytest.approx(unit, rel=1e-8)
  mended = read(weighted(fixed), len(fixed))
  divided = read(lambda *s: weighted(weights)(*s) / divisor, len(weights))
  for x, r in ((0.0, lambda y: y + 1), (1.0, lambda y: 1.3 * y)):
    by_hand = expected(*unit).maximum(x, r)
    assert mended.maximum(x, r) == pytest.approx(by_hand, rel=1e-6)
    assert divided.maximum(x, r) == pytest.approx(by_hand, rel=1e-6)


def test_lone_nonlinearities_weigh_in_with_their_size():
  """relu halves q: beside a linear signal the weights must make up for it."""

  def apply(w, x, activation):
    x = x @ w[0]
    return activation((x + jax.nn.relu(x) @ w[1]) @ w[2])

  finding = sum_finding(lambda: tatnet.trace_apply(apply, SQUARES, INPUT))
  *found, squares = numbers(finding.what)
  assert found == pytest.approx([1, R2], rel=1e-8)
  assert squares == pytest.approx(1.5)

  def mended(w, x, activation):
    x = x @ w[0]
    return activation((R2 * x + jax.nn.relu(x) @ w[1]) @ w[2])

  topology = tatnet.trace_apply(mended, SQUARES, INPUT)
  assert topology.compose(1.0, lambda y: 3 * y) == pytest.approx(3 * (0.5 + 0.5 * 3), rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_in_half_precision(dtype):
  """0.6 is no number of 16 bits; what was written is read."""
  squares = [jax.ShapeDtypeStruct((8, 8), dtype)] * 9

  def apply(w, x, activation):
    x = x @ w[0]
    x = 0.6 * x + 0.8 * (activation(x) @ w[1])
    return activation(
      jnp.asarray(0.8, dtype) * x + jnp.asarray(0.6, dtype) * (activation(x) @ w[2])
    )

  topology = tatnet.trace_apply(apply, squares, jax.ShapeDtypeStruct((4, 8), dtype))
  first = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  second = tatnet.weighted_sum((0.8, tatnet.identity()), (0.6, tatnet.nonlinear()))
  assert topology == tatnet.sequence(first, second, tatnet.nonlinear())


def test_a_sum_in_half_precision_used_in_full():
  def apply(w, x, activation):
    x = (x @ w[0]).astype(jnp.bfloat16)
    y = (activation(x) @ w[1]).astype(jnp.bfloat16)
    return activation((x * R2 + y * R2).astype(jnp.float32) @ w[2])

  topology = tatnet.trace_apply(apply, SQUARES, INPUT)
  assert topology.compose(0.0, lambda y: y + 1) == pytest.approx(1.5, abs=1e-12)


def gained(*gains):
  """A residual block with trainable weights on shortcut and branch."""

  def forward(x, activation):
    def gain(name, value):
      return hk.get_parameter(name, (), init=hk.initializers.Constant(value))

    x = hk.Linear(8)(x)
    y = hk.Linear(8)(activation(x))
    return activation(gain("shortcut", gains[0]) * x + gain("branch", gains[1]) * y)

  return lambda: tatnet.trace(forward, INPUT)


def test_trainable_weights_of_a_sum():
  layer = tatnet.nonlinear()
  assert gained(1, 0)() == layer  # SkipInit: the branch is not there at first
  assert gained(0, 1)() == tatnet.chain(2)
  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, layer))
  assert gained(0.6, 0.8)() == block >> layer
  assert "1, 0.3, whose squares add to 1.09" in sum_finding(gained(1, 0.3)).what
  assert "1, 1, whose squares add to 2" in sum_finding(gained(1, 1)).what


@pytest.mark.parametrize("shape", [(), (8,)])
def test_a_trainable_gain_on_a_signal(shape):
  def trace(value):
    def forward(x, activation):
      gain = hk.get_parameter("gain", shape, init=hk.initializers.Constant(value))
      return activation(gain * hk.Linear(8)(x))

    return tatnet.trace(forward, INPUT)

  assert trace(1) == trace(-1) == tatnet.chain(1)
  with pytest.raises(tatnet.TopologyError) as caught:
    trace(0.3)
  (finding,) = caught.value.findings
  assert "q = 0.09" in finding.what


def test_a_sum_used_by_two_branches_is_one_finding():
  def apply(w, x, activation):
    x = x @ w[0]
    x = x + activation(x) @ w[1]
    return 0.6 * (x @ w[2]) + 0.8 * (activation(x) @ w[3])

  sum_finding(lambda: tatnet.trace_apply(apply, SQUARES, INPUT))


def test_concatenation_needs_no_weights():
  def apply(w, x, activation):
    x = x @ w[0]
    x = jnp.concatenate([x, activation(x @ w[1])[:, :4]], axis=-1)
    return activation(x @ jnp.concatenate([w[2], w[3][:4]]))

  parts = ((8 / 12) ** 0.5, tatnet.identity()), ((4 / 12) ** 0.5, tatnet.nonlinear())
  assert tatnet.trace_apply(apply, SQUARES, INPUT) == (
    tatnet.weighted_sum(*parts) >> tatnet.nonlinear()
  )
