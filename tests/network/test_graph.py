"""Networks whose streams read each other, against their paths written out one by one."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet
from tatnet.layer.kernels import rectifier_cmap
from tatnet.network.assembly import DEEPEST, assembled
from tatnet.network.graph import Graph, Step, Term

LAYER, IDENTITY = tatnet.nonlinear(), tatnet.identity()
MAPS = {
  "slope": (1.0, lambda y: 1.1 * y),
  "curvature": (0.0, lambda y: y + 1.0),
  "cosine": (0.0, lambda c: rectifier_cmap(min(c, 1.0), 0.3)),
}


def normalised(terms):
  norm = math.sqrt(sum(weight**2 for weight, _, _ in terms))
  return Step(tuple(Term(weight / norm, *rest) for weight, *rest in terms))


@st.composite
def step_lists(draw):
  """Steps that read one or two of the last four values, directly or through a layer."""
  steps = []
  for number in range(1, draw(st.integers(1, 10)) + 1):
    recent = range(max(0, number - 4), number)
    sources = draw(st.lists(st.sampled_from(recent), min_size=1, max_size=2, unique=True))
    terms = [
      (draw(st.floats(0.2, 1)), source, draw(st.sampled_from([LAYER, IDENTITY])))
      for source in sources
    ]
    steps.append(normalised(terms))
  return steps


def along_all_paths(steps, number, x, r):
  if number == 0:
    return x
  return sum(
    term.weight**2 * term.piece.compose(along_all_paths(steps, term.source, x, r), r)
    for term in steps[number - 1].terms
  )


def needed(steps):
  alive = {len(steps)}
  for number in range(len(steps), 0, -1):
    if number in alive:
      alive |= {term.source for term in steps[number - 1].terms}
  return sorted(alive - {0})


@pytest.mark.parametrize("quantity", MAPS)
@settings(deadline=None, max_examples=80)
@given(steps=step_lists())
def test_it_is_the_sum_over_its_paths(quantity, steps):
  x, r = MAPS[quantity]
  network = assembled(steps)
  whole = along_all_paths(steps, len(steps), x, r)
  assert network.compose(x, r) == pytest.approx(whole, rel=1e-12)
  if network.num_nonlinear:
    assert network.maximum(x, r) >= whole * (1 - 1e-12)


@settings(deadline=None, max_examples=80)
@given(steps=step_lists())
def test_layers_that_run_are_counted_once(steps):
  layers = sum(t.piece == LAYER for number in needed(steps) for t in steps[number - 1].terms)
  assert assembled(steps).num_nonlinear == layers


@settings(deadline=None, max_examples=60)
@given(steps=step_lists(), seed=st.integers(0, 2**32))
def test_equal_in_any_order_of_steps(steps, seed):
  """Steps in another order that the signal allows, their terms shuffled as well."""
  order, ready, rest = [], {0}, list(range(1, len(steps) + 1))
  rng = random.Random(seed)
  while rest:
    free = [n for n in rest if all(t.source in ready for t in steps[n - 1].terms)]
    # The output stays the last.
    chosen = rng.choice([n for n in free if n != len(steps)] or free)
    order.append(chosen)
    ready.add(chosen)
    rest.remove(chosen)
  place = {0: 0} | {old: new for new, old in enumerate(order, 1)}
  moved = [
    Step(tuple(rng.sample([t._replace(source=place[t.source]) for t in steps[n - 1].terms],
                          len(steps[n - 1].terms))))
    for n in order
  ]  # fmt: skip
  one, other = assembled(steps), assembled(moved)
  assert one == other
  assert hash(one) == hash(other)


def coupled(blocks, weight=0.6):
  """Two streams, each of which adds a layer of the other."""
  rest, steps, a, b = math.sqrt(1 - weight**2), [], 0, 0
  for _ in range(blocks):
    steps.append(Step((Term(weight, a, IDENTITY), Term(rest, b, LAYER))))
    a = len(steps)
    steps.append(Step((Term(weight, b, IDENTITY), Term(rest, a, LAYER))))
    b = len(steps)
  steps.append(Step((Term(weight, a, IDENTITY), Term(rest, b, IDENTITY))))
  return steps


class Counter:
  calls = 0

  def __call__(self, y):
    self.calls += 1
    return y + 1.0


def test_cost_is_linear_in_the_layers():
  network = assembled(coupled(200))
  assert network.num_nonlinear == 400
  r = Counter()
  network.compose(0.0, r)
  assert r.calls == 400
  network.maximum(0.0, r)
  assert r.calls <= 400 * 5
  assert len(repr(network).splitlines()) == 1 + 3 * 401


def test_coupled_streams_are_solved_for():
  network = assembled(coupled(20))
  activation = tatnet.transform_activation("leaky_relu", network, tatnet.TAT(0.8))
  c = {0: 0.0}
  for number, step in enumerate(coupled(20), 1):
    c[number] = sum(
      t.weight**2
      * (
        rectifier_cmap(c[t.source], activation.negative_slope) if t.piece == LAYER else c[t.source]
      )
      for t in step.terms
    )
  assert c[41] == pytest.approx(0.8, abs=1e-9)
  assert tatnet.cmap(network, activation, 0.0) == pytest.approx(c[41], abs=1e-9)


def test_different_graphs_differ():
  assert assembled(coupled(3)) != assembled(coupled(3, weight=0.5))
  assert assembled(coupled(3)) != assembled(coupled(4))
  assert assembled(coupled(3)) != tatnet.chain(6)


def test_what_it_looks_like():
  lines = repr(assembled(coupled(1))).splitlines()
  assert lines[:4] == ["graph", "  v1 = sum", "    0.6 * input", "    0.8 * input >> nonlinear"]
  assert lines[4:7] == ["  v2 = sum", "    0.6 * input", "    0.8 * v1 >> nonlinear"]
  assert lines[7:] == ["  output = sum", "    0.6 * v1", "    0.8 * v2"]


@pytest.mark.parametrize("depth", [DEEPEST + 1, 1000])
def test_sums_nested_as_deep_as_one_likes(depth):
  network = IDENTITY
  for _ in range(depth):
    network = tatnet.weighted_sum((0.6, IDENTITY), (0.8, network >> LAYER))
  assert isinstance(network, Graph) or any(isinstance(p, Graph) for p in network.subnetworks())
  assert network.num_nonlinear == depth
  # f_n = 0.64 (f_(n - 1) + 1): a geometric series.
  expected = 0.64 * (1 - 0.64**depth) / 0.36
  assert network.compose(0.0, lambda y: y + 1) == pytest.approx(expected, rel=1e-12)
  assert network.maximum(0.0, lambda y: y + 1) >= expected
  assert network == network >> IDENTITY
  assert "nonlinear" in repr(network)
