"""The topology that a network states is the one that runs: read by trace, and counted."""

import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import tatnet
from tatnet.nets import MLP, CifarResNet, IdentityResNet, PreActResNet, ResNet

pytestmark = pytest.mark.filterwarnings("ignore:Version 1 with shortcut_weight")

# Name -> network, its arguments, the shape of its input.
NETWORKS = {
  "mlp": (MLP, {"width": 8, "depth": 7}, (2, 12)),
  "mlp of one layer": (MLP, {"width": 8, "depth": 1}, (2, 12)),
  "resnet18 v1": (ResNet, {"depth": 18, "version": 1}, (2, 32, 32, 3)),
  "resnet18 v2": (ResNet, {"depth": 18}, (2, 32, 32, 3)),
  "resnet50 v1": (ResNet, {"depth": 50, "version": 1}, (2, 32, 32, 3)),
  "resnet50 v2": (ResNet, {"depth": 50, "version": 2}, (2, 32, 32, 3)),
  "cifar_resnet20 v1": (CifarResNet, {"depth": 20, "version": 1}, (2, 8, 8, 3)),
  "cifar_resnet20 v2": (CifarResNet, {"depth": 20}, (2, 8, 8, 3)),
  "preact_resnet18": (PreActResNet, {"depth": 18}, (2, 8, 8, 3)),
  "preact_resnet50": (PreActResNet, {"depth": 50}, (2, 8, 8, 3)),
  "identity_resnet56": (IdentityResNet, {"depth": 56}, (2, 8, 8, 3)),
  "identity_resnet34": (IdentityResNet, {"depth": 34}, (2, 32, 32, 3)),
}


def traced(name, **options):
  network, arguments, shape = NETWORKS[name]

  def forward(x, activation):
    return network(num_classes=3, activation=activation, **arguments, **options)(x)

  tolerated = {"max pooling"}
  if (
    name.endswith("v1") and options["shortcut_weight"]
  ):  # activated sums, as their authors have them
    tolerated.add("nonlinearity of a sum with an activated term")
  if name.startswith("identity"):  # its shortcuts pool
    tolerated.add("averaging between nonlinear layers")
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    topology = tatnet.trace(forward, jax.ShapeDtypeStruct(shape, jnp.float32))
  kinds = {finding.kind for warning in caught for finding in warning.message.findings}
  assert kinds <= tolerated
  return topology


def stated(name, weight, **others):
  network, arguments, _ = NETWORKS[name]
  return network.topology(**(arguments | others), shortcut_weight=weight)


def activations_run(name, **options):
  """Calls of the activation while the network runs abstractly."""
  network, arguments, shape = NETWORKS[name]
  calls = []

  def activation(x):
    calls.append(x.shape)
    return jnp.tanh(x)

  def forward(x):
    return network(num_classes=3, activation=activation, **arguments, **options)(x)

  init = hk.transform_with_state(forward).init
  jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
  return len(calls)


@pytest.mark.parametrize(
  ("weight", "normalization"), [(0.0, None), (0.5, None), (0.0, "layer"), (0.5, "weight")]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_trace_reads_what_the_network_states(name, weight, normalization):
  found = traced(name, shortcut_weight=weight, normalization=normalization, stacked=False)
  assert found == stated(name, weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_stacking_does_not_change_the_topology(name):
  assert traced(name, shortcut_weight=0.5, stacked=True) == stated(name, 0.5)


def test_resnets_warn_of_their_max_pooling():
  with pytest.warns(tatnet.TopologyWarning, match="max pooling"):
    tatnet.trace(
      lambda x, activation: ResNet(18, 3, activation=activation)(x), jnp.ones([1, 32, 32, 3])
    )


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_activations_run_as_are_mapped(name, weight):
  calls = activations_run(name, shortcut_weight=weight, stacked=False)
  assert calls == stated(name, weight).num_nonlinear


@pytest.mark.parametrize(
  ("name", "count"),
  [
    # One per convolution. The authors' version 1 without shortcuts runs 33 and maps 49.
    ("resnet50 v1", 49),
    ("resnet50 v2", 49),
    ("resnet18 v1", 17),
    ("cifar_resnet20 v1", 19),
    ("cifar_resnet20 v2", 19),
    ("preact_resnet18", 16),  # none behind the last block
    ("identity_resnet56", 27),  # one per block
    ("identity_resnet34", 16),
    ("mlp", 7),
  ],
)
def test_without_shortcuts_the_network_is_a_chain(name, count):
  assert stated(name, 0.0) == tatnet.chain(count)
  assert activations_run(name, shortcut_weight=0.0, stacked=False) == count


@pytest.mark.parametrize(("depth", "count"), [(34, 33), (101, 100), (152, 151), (200, 199)])
def test_deep_resnets_are_chains_of_the_papers_lengths(depth, count):
  assert ResNet.topology(depth) == ResNet.topology(depth, version=1) == tatnet.chain(count)


def test_layers_on_shortcuts_read_what_the_branch_reads():
  """A block that changes the shape applies its first activation before the signal splits."""

  def by_hand(x, r):
    for stage in range(3):
      for block in range(3):
        shortcut = r(x) if stage and not block else x
        x = 0.25 * shortcut + 0.75 * r(r(x))
    return r(x)

  def r(x):
    return x + 0.1 * (1 - x)

  assert stated("cifar_resnet20 v2", 0.5).compose(0.2, r) == pytest.approx(by_hand(0.2, r))
