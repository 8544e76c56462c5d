"""Network-wide targets are met on any topology, or the error states what is in reach."""

import dataclasses
import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from references import local_conditions

import tatnet

# A network as nested tuples: ("layers", n), ("series", parts) or ("sum", squared weights, parts).
LEAVES = st.integers(0, 6).map(lambda n: ("layers", n))


def grow(parts):
  series = st.lists(parts, min_size=1, max_size=4).map(lambda p: ("series", tuple(p)))
  weights = st.lists(st.integers(1, 9), min_size=2, max_size=3)
  sums = weights.flatmap(
    lambda w: st.tuples(
      st.just("sum"), st.just(tuple(v / sum(w) for v in w)), st.tuples(*[parts] * len(w))
    )
  )
  return series | sums


NETWORKS = st.recursive(LEAVES, grow, max_leaves=10)
EXAMPLES = settings(max_examples=30, deadline=None)


def build(net):
  if net[0] == "layers":
    return tatnet.chain(net[1]) if net[1] else tatnet.identity()
  if net[0] == "series":
    return tatnet.sequence(*map(build, net[1]))
  terms = zip(map(math.sqrt, net[1]), map(build, net[2]), strict=True)
  return tatnet.weighted_sum(*terms)


def value(net, x, r):
  """F of DKS and TAT: r at every nonlinear layer of the whole network."""
  if net[0] == "layers":
    for _ in range(net[1]):
      x = r(x)
    return x
  if net[0] == "series":
    for part in net[1]:
      x = value(part, x, r)
    return x
  return sum(w * value(part, x, r) for w, part in zip(net[1], net[2], strict=True))


def largest(net, x, r):
  """M of DKS and TAT: the largest F over subnetworks, from its recursive definition."""
  inside = () if net[0] == "layers" else net[-1]
  return max([value(net, x, r), *(largest(part, x, r) for part in inside)])


def relu_cmap(c):
  return c + (math.sqrt(max(1 - c**2, 0)) - c * math.acos(min(c, 1))) / math.pi


def is_deep_enough(net):
  return largest(net, 0.0, lambda y: y + 1) > 0


@given(net=NETWORKS, eta=st.floats(0.02, 0.98))
@EXAMPLES
def test_eta(net, eta):
  topology = build(net)
  reach = largest(net, 0.0, relu_cmap)
  if eta > reach:
    with pytest.raises(ValueError, match="out of reach") as error:
      tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(eta))
    assert f"at slope 0 they reach {reach:.4f}, at slope 1 0.0000" in str(error.value)
    return
  act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(eta))
  local = tatnet.local_maps(act).C

  def clipped(c):
    return local(min(c, 1.0))

  assert topology.maximum(0.0, clipped) == pytest.approx(eta, abs=1e-10)
  assert largest(net, 0.0, clipped) == pytest.approx(eta, abs=1e-10)


@given(net=NETWORKS.filter(is_deep_enough), zeta=st.floats(1.001, 10))
@pytest.mark.parametrize("name", ["tanh", "leaky_relu", "softplus"])
@EXAMPLES
def test_zeta(name, net, zeta):
  topology = build(net)
  try:
    act = tatnet.transform_activation(name, topology, tatnet.DKS(zeta))
  except ValueError as error:
    check_slope_range(str(error), name, net)
    return
  slope = act.local.c_slope
  assert topology.maximum(1.0, lambda y: slope * y) == pytest.approx(zeta, rel=1e-8)
  assert largest(net, 1.0, lambda y: slope * y) == pytest.approx(zeta, rel=1e-8)


@given(net=NETWORKS.filter(is_deep_enough), tau=st.floats(1e-3, 10))
@pytest.mark.parametrize("name", ["tanh", "softplus", "elu"])
@EXAMPLES
def test_tau(name, net, tau):
  topology = build(net)
  try:
    act = tatnet.transform_activation(name, topology, tatnet.TAT(tau=tau))
  except ValueError as error:
    check_curvature_range(str(error), name, net)
    return
  curvature = act.local.c_curvature
  assert topology.maximum(0.0, lambda y: y + curvature) == pytest.approx(tau, rel=1e-8)
  assert largest(net, 0.0, lambda y: y + curvature) == pytest.approx(tau, rel=1e-8)


def check_slope_range(message, name, net):
  side, nearest, advised = stated_range(message, "zeta")
  assert (nearest < wanted(message)) == (side == "at most")
  assert largest(net, 1.0, lambda y: nearest * y) == pytest.approx(advised, rel=0.02)
  inside, outside = (0.98, 1.02) if side == "at most" else (1.02, 0.98)
  one = tatnet.chain(1)
  slope = 1 + (nearest - 1) * inside
  act = tatnet.transform_activation(name, one, tatnet.DKS(slope))
  assert act.local.c_slope == pytest.approx(slope, abs=1e-10)
  with pytest.raises(ValueError, match="out of reach"):
    tatnet.transform_activation(name, one, tatnet.DKS(1 + (nearest - 1) * outside))


def check_curvature_range(message, name, net):
  side, nearest, advised = stated_range(message, "tau")
  assert (nearest < wanted(message)) == (side == "at most")
  assert nearest * largest(net, 0.0, lambda y: y + 1) == pytest.approx(advised, rel=1e-2)
  inside, outside = (0.98, 1.02) if side == "at most" else (1.02, 0.98)
  one = tatnet.chain(1)
  act = tatnet.transform_activation(name, one, tatnet.TAT(tau=nearest * inside))
  assert act.local.c_curvature == pytest.approx(nearest * inside, abs=1e-10)
  with pytest.raises(ValueError, match="out of reach"):
    tatnet.transform_activation(name, one, tatnet.TAT(tau=nearest * outside))


def stated_range(message, knob):
  pattern = rf"reaches (at most|at least) about (\S+)\. Choose {knob} (at most|at least) (\S+),"
  side, nearest, side2, advised = re.search(pattern, message).groups()
  assert side == side2
  return side, float(nearest), float(advised)


def wanted(message):
  return float(re.search(r"C'+\(1\) = ([\d.e+-]+)", message)[1].rstrip("."))


RANGES = {
  "tanh": (1.05, 2.0), "atan": (1.05, 2.0), "softsign": (1.05, 2.0), "sin": (1.05, 2.0),
  "asinh": (1.05, 1.4), "selu": (1.05, 1.3), "elu": (1.05, 1.3), "gelu": (1.05, 1.4),
  "hard_tanh": (1.48, 2.0), "relu6": (1.48, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_the_range_of_zeta_has_no_gaps(name):
  """Between two slopes that lie on one curve of solutions every slope is in reach."""
  low, high = RANGES[name]
  for zeta in (low + (high - low) * i / 50 for i in range(51)):
    act = tatnet.transform_activation(name, tatnet.chain(1), tatnet.DKS(zeta))
    assert act.local.c_slope == pytest.approx(zeta, abs=1e-10)


@pytest.mark.parametrize("name", ["tanh", "selu", "elu", "softsign", "gelu", "swish", "softplus"])
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 8, 12])
def test_shallow_networks_meet_the_usual_target(name, depth):
  act = tatnet.transform_activation(name, tatnet.chain(depth), tatnet.DKS(1.5))
  assert act.local.c_slope**depth == pytest.approx(1.5, rel=1e-8)


@pytest.mark.parametrize(
  ("name", "method"),
  [
    ("tanh", tatnet.DKS(4.0)),
    ("mish", tatnet.DKS(1.45)),
    ("softplus", tatnet.DKS(1.4)),
    ("bentid", tatnet.TAT(tau=2.0)),
    ("sigmoid", tatnet.TAT(tau=0.5)),
  ],
)
def test_steep_solutions_have_local_maps(name, method):
  """A single layer that must do all the bending."""
  act = tatnet.transform_activation(name, tatnet.chain(1), method)
  assert dataclasses.asdict(act.local) == pytest.approx(local_conditions(act), abs=1e-9, rel=1e-8)


def test_the_range_stated_for_leaky_relu_is_right():
  one = tatnet.chain(1)
  with pytest.raises(ValueError, match="out of reach for leaky_relu") as error:
    tatnet.transform_activation("leaky_relu", one, tatnet.DKS(30.0))
  stated = float(re.search(r"reaches at most about ([\d.]+\d)", str(error.value))[1])
  # At slope -1 it is |x|: the variance is 1 - 2 / pi and the slope 1 everywhere.
  assert stated == pytest.approx(math.pi / (math.pi - 2), rel=0.01)
  act = tatnet.transform_activation("leaky_relu", one, tatnet.DKS(0.99 * stated))
  assert act.local.c_slope == pytest.approx(0.99 * stated, abs=1e-10)
  with pytest.raises(ValueError, match="out of reach for leaky_relu"):
    tatnet.transform_activation("leaky_relu", one, tatnet.DKS(1.02 * stated))


@given(net=NETWORKS, x=st.floats(0, 1))
@EXAMPLES
def test_maximum_follows_its_definition(net, x):
  topology = build(net)
  for r in (lambda y: 1.3 * y, lambda y: y + 0.2, relu_cmap):
    assert topology.maximum(x, r) == pytest.approx(largest(net, x, r), rel=1e-12, abs=1e-12)


@given(net=NETWORKS)
@EXAMPLES
def test_a_hand_written_function_gives_the_same(net):
  assume(is_deep_enough(net))

  def by_hand(x, r):
    return largest(net, x, r)

  for method in (tatnet.DKS(1.2), tatnet.TAT(tau=0.1)):
    act = tatnet.transform_activation("softplus", build(net), method)
    other = tatnet.transform_activation("softplus", by_hand, method)
    assert other.input_scale == pytest.approx(act.input_scale, rel=1e-7)


def test_a_network_without_nonlinear_layers_has_nothing_to_solve_for():
  for name, method in (
    ("tanh", tatnet.DKS()),
    ("tanh", tatnet.TAT()),
    ("leaky_relu", tatnet.TAT()),
  ):
    with pytest.raises(ValueError, match="out of reach for 0 nonlinear layers"):
      tatnet.transform_activation(name, tatnet.identity(), method)
