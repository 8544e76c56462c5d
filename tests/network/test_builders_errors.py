"""Errors of the topology constructors say what was given and what to do."""

import math

import pytest

import tatnet
from tatnet.network.builders import as_topology


@pytest.mark.parametrize("n", [0, -1, -100])
def test_chain_needs_a_layer(n):
  with pytest.raises(ValueError, match=rf"n={n}; expected at least one"):
    tatnet.chain(n)


@pytest.mark.parametrize("n", [2.0, True, "3", None, math.nan])
def test_chain_needs_an_integer(n):
  with pytest.raises(TypeError, match="expected an integer"):
    tatnet.chain(n)


@pytest.mark.parametrize(
  ("weights", "total", "remedy"),
  [
    ((1.0, 1.0), "2", [0.5**0.5, 0.5**0.5]),
    ((3, 4), "25", [0.6, 0.8]),
    ((0.5, -0.5), "0.5", [0.5**0.5, -(0.5**0.5)]),
    ((0.6, 0.80001), "1.00002", [0.599995, 0.800004]),
    ((2.0,), "4", [1.0]),
  ],
)
def test_weights_that_are_not_normalised(weights, total, remedy):
  with pytest.raises(ValueError, match="squares add to") as error:
    tatnet.weighted_sum(*[(w, tatnet.chain(i + 1)) for i, w in enumerate(weights)])
  message = str(error.value)
  assert str([float(w) for w in weights]) in message
  assert f"squares add to {total};" in message
  assert weights_to_use(message) == pytest.approx(remedy, abs=1e-5)


def weights_to_use(message):
  return [float(w) for w in message.split("Use ")[1].rstrip(".").split(", ")]


def test_the_weights_to_use_are_accepted():
  with pytest.raises(ValueError, match="Use ") as error:
    tatnet.weighted_sum((0.3, tatnet.identity()), (0.7, tatnet.chain(2)), (1.1, tatnet.chain(3)))
  terms = zip(weights_to_use(str(error.value)), map(tatnet.chain, (1, 2, 3)), strict=True)
  assert tatnet.weighted_sum(*terms).num_nonlinear == 6


@pytest.mark.parametrize("weights", [(), (0.0,), (0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_weights_without_a_remedy(weights):
  with pytest.raises(ValueError, match="squares add to") as error:
    tatnet.weighted_sum(*[(w, tatnet.identity()) for w in weights])
  assert "Use" not in str(error.value)


def test_weights_within_the_tolerance():
  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8000004, tatnet.chain(1)))
  assert block.num_nonlinear == 1
  with pytest.raises(ValueError, match="squares add to"):
    tatnet.weighted_sum((0.6, tatnet.identity()), (0.800001, tatnet.chain(1)))


@pytest.mark.parametrize(
  "term",
  [
    tatnet.identity(),
    (tatnet.identity(), 1.0),
    (1.0, tatnet.identity(), "name"),
    [1.0, tatnet.identity()],
    ("1.0", tatnet.identity()),
    (1.0 + 0j, tatnet.identity()),
    0.6,
  ],
)
def test_terms_are_pairs(term):
  with pytest.raises(TypeError, match="expected pairs"):
    tatnet.weighted_sum(term)


@pytest.mark.parametrize("thing", [3, "chain", None, lambda x, r: r(x)])
def test_parts_are_topologies(thing):
  for build in (
    lambda: tatnet.sequence(tatnet.chain(2), thing),
    lambda: tatnet.weighted_sum((1.0, thing)),
    lambda: tatnet.chain(2) >> thing,
  ):
    with pytest.raises(TypeError, match="expected a Topology"):
      build()


@pytest.mark.parametrize("thing", [49, "chain", None, [tatnet.chain(2)]])
def test_what_is_not_a_network(thing):
  with pytest.raises(TypeError, match=r"expected a tatnet\.Topology"):
    as_topology(thing)
