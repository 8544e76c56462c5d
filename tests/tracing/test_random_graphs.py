"""Random graphs: the maps that are traced are those of the networks that run, 1024 wide."""

import pytest
import random_graphs
from battery.measure import judge
from battery.models import RELU, TANH

SEEDS = 4


@pytest.mark.parametrize("seed", range(10))
def test_graphs_without_a_fault_agree(seed):
  outcome = judge(random_graphs.model(seed, None, TANH if seed % 3 == 0 else RELU), SEEDS)
  assert outcome.outcome == "agrees", outcome.detail


@pytest.mark.parametrize("fault", random_graphs.FAULTS)
@pytest.mark.parametrize(("seed", "activation"), [(0, RELU), (2, TANH)])
def test_a_fault_is_in_the_maps_or_named(fault, seed, activation):
  outcome = judge(random_graphs.model(seed, fault, activation), SEEDS)
  assert outcome.is_right, outcome.detail
