"""Equal networks are equal topologies, however they were put together."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tatnet

OWN = tatnet.TransformedActivation("relu", output_scale=math.sqrt(2))


def test_canonical_forms():
  layer, identity = tatnet.nonlinear(), tatnet.identity()
  assert tatnet.sequence() == tatnet.sequence(identity, identity) == identity
  assert tatnet.sequence(layer) == tatnet.chain(1) == layer
  assert layer >> layer >> layer == tatnet.chain(3) == tatnet.chain(np.int64(3))
  assert tatnet.weighted_sum((1.0, layer)) == layer
  assert tatnet.weighted_sum((0.0, identity), (-1.0, tatnet.chain(2))) == tatnet.chain(2)
  block = tatnet.weighted_sum((0.6, identity), (0.8, layer))
  assert tatnet.weighted_sum((0.6, identity), (0.0, tatnet.chain(9)), (0.8, layer)) == block
  assert tatnet.weighted_sum((0.8, identity), (0.6, layer)) != block
  assert tatnet.nonlinear(OWN) != layer
  assert len({layer, tatnet.chain(1), block, tatnet.chain(2), tatnet.sequence(layer, layer)}) == 3


BRANCHES = [
  tatnet.identity(),
  tatnet.nonlinear(),
  tatnet.nonlinear(OWN),
  tatnet.chain(2),
  tatnet.weighted_sum((0.6, tatnet.chain(1)), (0.8, tatnet.nonlinear(OWN))),
]


@settings(deadline=None, max_examples=40)
@given(
  terms=st.lists(
    st.tuples(st.sampled_from([0.5, 0.7, 1.0, -1.0]), st.sampled_from(BRANCHES)),
    min_size=2,
    max_size=4,
  ),
  data=st.data(),
)
def test_a_sum_is_the_same_in_any_order(terms, data):
  norm = math.sqrt(sum(weight**2 for weight, _ in terms))
  terms = [(weight / norm, branch) for weight, branch in terms]
  one = tatnet.weighted_sum(*terms)
  other = tatnet.weighted_sum(*data.draw(st.permutations(terms)))
  assert one == other
  assert hash(one) == hash(other)


def test_weights_are_compared_up_to_rounding():
  def block(w, rest):
    return tatnet.weighted_sum((w, tatnet.identity()), (rest, tatnet.chain(2)))

  assert block(0.8, 0.6) == block(0.8, math.sqrt(1 - 0.8**2)) == block(-0.8, 0.6)
  assert hash(block(0.8, 0.6)) == hash(block(0.8, math.sqrt(1 - 0.8**2)))
  assert block(0.8, 0.6) != block(0.8000001, math.sqrt(1 - 0.8000001**2))


def test_names_of_places_do_not_enter_comparisons():
  def net(where):
    layer = tatnet.nonlinear(where=where)
    return tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, layer), where=where) >> layer

  assert net("stage_1/block_2") == net(None)
  assert hash(net("stage_1/block_2")) == hash(net(None))


def test_a_topology_is_frozen():
  layer = tatnet.nonlinear()
  with pytest.raises(dataclasses.FrozenInstanceError):
    layer.activation = "own"
