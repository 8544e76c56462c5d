"""A cheap part of the battery: what is traced is what runs, or it is said what is at fault.

`benchmarks/trace_battery.py` judges all of its models, at more seeds.
"""

import pytest
from battery import MODELS
from battery.measure import judge

BY_NAME = {model.name: model for model in MODELS}
SEEDS = 6

AGREE = [
  "mlp, tanh",
  "wide and deep",
  "scan",
  "mlp, nnx",
  "mlp, linen",
  "rezero, arrays",
  "gains of 1, arrays",
  "blends, arrays",
  "crelu",
  "layer norm behind tanh",
  "sizes by hand",
  "token shift",
  "features by hadamard",
  "features by a permutation",
  "factor that is undone",
  "1/sqrt(n) in the network",
  "lone custom vjp",
  "lone hard tanh, scaled",
  "bare snake",
  "one-hot words",
]
FLAGGED = [
  "tied autoencoder",
  "un-normalised residual",
  "batch norm",
  "batch norm, nnx",
  "noise before activations",
  "gmlp",
  "transformer",
  "vision transformer",
  "glu",
  "swiglu",
  "gated layer, nnx",
  "squeeze and excite",
  "polynomial",
  "maxout",
  "hyper network",
  "twice each layer",
  "fixed mask",
  "step",
  "nerf",
  "time embedding",
  "fixed positions",
  "fourier mixing",
]


def test_names_are_unique():
  assert len(BY_NAME) == len(MODELS) >= 60
  assert len({model.kind for model in MODELS}) >= 25


@pytest.mark.parametrize("name", AGREE)
def test_what_is_traced_is_what_runs(name):
  outcome = judge(BY_NAME[name], SEEDS)
  assert outcome.outcome == "agrees", outcome.detail


@pytest.mark.parametrize("name", FLAGGED)
def test_what_is_at_fault_is_named(name):
  outcome = judge(BY_NAME[name], SEEDS)
  assert outcome.outcome == "flagged", outcome.detail
