"""A cheap part of the battery: what is traced is what runs, or it is said what is at fault.

`benchmarks/trace_battery.py` judges all of its models, at more seeds.
"""

import dataclasses

import pytest
from battery import MODELS
from battery.measure import judge

import tatnet
from tatnet.tracing.findings import Finding

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
  "lone spline",
  "learned spline, arrays",
  "prelu, arrays",
  "bare snake",
  "one-hot words",
  "siren",
  "merged product",
  "weights by unit columns",
  "cosine layers",
  "added weights",
  "factorised weights",
  "divided by q",
  "shard_map, Auto, data cut",
  "gradients clipped",
  "heads",
  "fori_loop",
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
  "weights by sign",
  "weights by softplus",
  "weights by length",
  "synthesizer",
  "noise on weights",
  "norm ends branches, gain 0, shapes",
  "divided by largest entry",
  "mean and deviation",
  "mean of the image",
]


def test_names_are_unique():
  assert len(BY_NAME) == len(MODELS) >= 60
  assert len({model.kind for model in MODELS}) >= 25


def broken(kind):
  raise tatnet.TopologyError((Finding(kind, "here", "something", "mend it"),))


@pytest.mark.parametrize(
  ("trace", "outcome"),
  [
    (lambda: tatnet.chain(5), "agrees"),
    (lambda: tatnet.chain(3), "WRONG IN SILENCE"),
    (lambda: tatnet.chain(8), "WRONG IN SILENCE"),
    (lambda: broken("batch normalisation"), "REFUSED WRONGLY"),
    (lambda: 1 / 0, "CRASH"),
  ],
)
def test_the_judge_sees_what_is_wrong(trace, outcome):
  model = dataclasses.replace(BY_NAME["argument called act"], trace=trace)
  assert judge(model, SEEDS).outcome == outcome


def test_the_judge_sees_a_wrong_q():
  model = BY_NAME["twice each layer"]
  silent = dataclasses.replace(model, trace=lambda: tatnet.chain(4))
  assert "q = " in judge(silent, SEEDS).detail
  named = dataclasses.replace(model, trace=lambda: broken("constant factor"))
  assert judge(named, SEEDS).outcome == "flagged"


@pytest.mark.parametrize("name", AGREE)
def test_what_is_traced_is_what_runs(name):
  outcome = judge(BY_NAME[name], SEEDS)
  assert outcome.outcome == "agrees", outcome.detail


@pytest.mark.parametrize("name", FLAGGED)
def test_what_is_at_fault_is_named(name):
  outcome = judge(BY_NAME[name], SEEDS)
  assert outcome.outcome == "flagged", outcome.detail
