"""Topologies against a plain recursive definition of the network and its subnetworks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet
from tatnet.layer.kernels import rectifier_cmap
from tatnet.network.builders import as_topology

# A network spelled out: "id", ("layer", activation), ("series", parts), ("sum", terms).
OWN = tatnet.TransformedActivation("relu", output_scale=math.sqrt(2))
OTHER = tatnet.TransformedActivation("leaky_relu", negative_slope=0.5)
LAYERS = st.sampled_from([None, None, OWN, OTHER]).map(lambda name: ("layer", name))


def normalised(terms):
  norm = math.sqrt(sum(weight**2 for weight, _ in terms))
  return ("sum", [(weight / norm, branch) for weight, branch in terms])


def larger(trees):
  weights = st.floats(0.1, 1) | st.floats(-1, -0.1)
  return st.lists(trees, max_size=4).map(lambda parts: ("series", parts)) | st.lists(
    st.tuples(weights, trees), min_size=1, max_size=3
  ).map(normalised)


TREES = st.recursive(st.just("id") | LAYERS, larger, max_leaves=12)


def build(tree):
  match tree:
    case "id":
      return tatnet.identity()
    case ("layer", name):
      return tatnet.nonlinear(name)
    case ("series", parts):
      return tatnet.sequence(*map(build, parts))
    case ("sum", terms):
      return tatnet.weighted_sum(*[(weight, build(branch)) for weight, branch in terms])


def compose(tree, x, maps):
  match tree:
    case ("layer", name):
      return maps[name](x)
    case ("series", parts):
      for part in parts:
        x = compose(part, x, maps)
    case ("sum", terms):
      return sum(weight**2 * compose(branch, x, maps) for weight, branch in terms)
  return x


def stretches(tree):
  """Every subnetwork with one input and one output, cut out of sequences anywhere."""
  yield tree
  match tree:
    case ("series", parts):
      for start in range(len(parts)):
        for end in range(start + 1, len(parts) + 1):
          yield ("series", parts[start:end])
      for part in parts:
        yield from stretches(part)
    case ("sum", terms):
      for _, branch in terms:
        yield from stretches(branch)


def count_layers(tree):
  match tree:
    case ("layer", _):
      return 1
    case ("series", parts):
      return sum(map(count_layers, parts))
    case ("sum", terms):
      return sum(count_layers(branch) for _, branch in terms)
  return 0


# What the methods compose: slopes at 1, curvatures at 0, C maps at 0.
QUANTITIES = {
  "slope": (1.0, lambda k: lambda y: (1 + k) * y),
  "curvature": (0.0, lambda k: lambda y: y + k),
  "cosine": (0.0, lambda k: lambda y: rectifier_cmap(min(y, 1.0), 1 - k)),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@settings(deadline=None, max_examples=60)
@given(tree=TREES)
def test_compose_and_maximum(quantity, tree):
  x, family = QUANTITIES[quantity]
  maps = {None: family(0.5), OWN: family(0.1), OTHER: family(0.9)}
  topology = build(tree)
  assert topology.compose(x, maps) == pytest.approx(compose(tree, x, maps), rel=1e-13)
  expected = max(compose(part, x, maps) for part in stretches(tree))
  assert topology.maximum(x, maps) == pytest.approx(expected, rel=1e-13)


@settings(deadline=None, max_examples=60)
@given(tree=TREES)
def test_compose_visits_every_layer_once(tree):
  visited = []
  topology = build(tree)
  topology.compose(0.0, lambda y: visited.append(y) or y)
  assert len(visited) == topology.num_nonlinear == count_layers(tree)


@settings(deadline=None, max_examples=60)
@given(tree=TREES, others=st.lists(TREES, max_size=2))
def test_equal_networks_are_equal(tree, others):
  a, b = build(tree), build(tree)
  assert a == b
  assert hash(a) == hash(b)
  assert a >> tatnet.identity() == tatnet.identity() >> a == a
  rest = [build(other) for other in others]
  flat = tatnet.sequence(a, *rest)
  nested = a
  for part in rest:
    nested = nested >> part
  assert flat == nested == tatnet.sequence(tatnet.sequence(a), tatnet.sequence(*rest))
  assert hash(flat) == hash(nested)


@pytest.mark.parametrize(("depth", "projections", "basic"), [(16, 4, False), (8, 3, True)])
def test_curvature_of_residual_networks(depth, projections, basic):
  """kappa * ((1 - w^2) m B + w^2 P + 1) for a pre-activation ResNet (a known closed form)."""
  w, m = 0.5, 2 if basic else 3
  layer = tatnet.nonlinear()
  residual = math.sqrt(1 - w * w)
  plain = tatnet.weighted_sum((w, tatnet.identity()), (residual, tatnet.chain(m)))
  projected = tatnet.weighted_sum((w, layer), (residual, tatnet.chain(m)))
  net = tatnet.sequence(*[projected] * projections, *[plain] * (depth - projections), layer)
  expected = (1 - w * w) * m * depth + w * w * projections + 1
  assert net.maximum(0.0, lambda y: y + 1) == pytest.approx(expected, rel=1e-13)
  assert net.num_nonlinear == m * depth + projections + 1


def test_a_branch_can_exceed_the_whole():
  net = tatnet.weighted_sum((0.8, tatnet.identity()), (0.6, tatnet.chain(5)))
  assert net.compose(0.0, lambda y: y + 1) == pytest.approx(0.36 * 5)
  assert net.maximum(0.0, lambda y: y + 1) == 5


def test_arrays_pass_through():
  net = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(2)))
  x = np.linspace(0, 1, 4)
  np.testing.assert_allclose(net.compose(x, lambda y: y + 1), x + 1.28, rtol=1e-15)


class Counter:
  """A map that counts how often it is applied."""

  calls = 0

  def __call__(self, y):
    self.calls += 1
    return y + 1.0


def test_cost_is_linear_in_depth():
  assert tatnet.chain(100_000).num_nonlinear == 100_000
  r = Counter()
  assert tatnet.chain(100_000).maximum(0.0, r) == 100_000
  assert r.calls <= 100_001
  block = tatnet.weighted_sum((0.6, tatnet.nonlinear()), (0.8, tatnet.chain(3)))
  r, net = Counter(), tatnet.sequence(*[block] * 10_000)
  assert net.num_nonlinear == 40_000
  net.maximum(0.0, r)
  # Equal blocks count once: the whole net, one block, and what is inside it.
  assert r.calls <= 40_000 + 4 + 3 + 1 + 1


@pytest.mark.parametrize(
  ("w", "rest"),
  [*((w, math.sqrt(1 - w * w)) for w in np.linspace(0.05, 0.95, 19)), (0.6, 0.8000004)],
)
def test_sums_may_exceed_one_by_rounding(w, rest):
  """A layer that keeps its own activation takes a cosine of 1 + 2e-16 for 1."""
  gain = math.sqrt(math.pi / 2 / math.asin(2 / 3))  # of erf: Q(1) = (2 / pi) arcsin(2 / 3)
  own = tatnet.TransformedActivation("erf", output_scale=gain)
  block = tatnet.weighted_sum((w, tatnet.identity()), (rest, tatnet.chain(2)))
  net = block >> tatnet.nonlinear(own) >> block
  assert tatnet.cmap(net, "relu", 1.0) == pytest.approx(1, abs=2e-6)
  assert tatnet.cmap(net, "relu", np.array([0.0, 1.0]))[1] == pytest.approx(1, abs=2e-6)


def by_hand(x, r):
  return r(0.36 * x + 0.64 * r(r(x)))


def test_hand_written_functions():
  topology = as_topology(by_hand)
  built = (
    tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(2))) >> tatnet.nonlinear()
  )
  for x, r in ((0.0, lambda y: y + 0.3), (1.0, lambda y: 1.2 * y)):
    assert topology.compose(x, r) == pytest.approx(built.compose(x, r), rel=1e-14)
    assert topology.maximum(x, r) == by_hand(x, r)
    assert topology.compose(x, {None: r}) == by_hand(x, r)
  assert topology.num_nonlinear is None
  assert "by_hand" in repr(topology)
  assert as_topology(by_hand) == topology
  assert as_topology(built) is built


def test_a_hand_written_part_of_a_larger_network():
  net = as_topology(by_hand) >> tatnet.nonlinear(OWN)
  maps = {None: lambda y: y + 1.0, OWN: lambda y: y + 10.0}
  assert net.compose(0.0, maps) == pytest.approx(by_hand(0.0, maps[None]) + 10)
  assert net.num_nonlinear is None
  summed = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, net))
  assert summed.num_nonlinear is None
