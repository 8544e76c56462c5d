"""At initialisation every activation of a network reads q = 1, and angles follow the C map."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import identity, resnet

SEEDS = 4

# Max pooling and pooled shortcuts keep q only where neighbouring locations agree.
EQUAL_LOCATIONS = ("resnet18", "identity_resnet56")


def inputs_of(name, shape):
  """q = 1 at every location. Many channels, so that preactivations are near Gaussian."""
  x = np.random.default_rng(0).normal(size=shape)
  x = np.broadcast_to(x[:, :1, :1], shape) if name in EQUAL_LOCATIONS else x
  return np.float32(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True)))


@pytest.fixture
def q_values(monkeypatch):
  """A function: network and input -> q in front of every activation, mean over networks."""
  seen = []
  apply = tatnet.TransformedActivation.__call__

  def recording(self, x):
    seen.append(jnp.mean(jnp.square(x)))
    return apply(self, x)

  monkeypatch.setattr(tatnet.TransformedActivation, "__call__", recording)

  def measure(network, x):
    init = jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 0})

    @jax.jit
    def run(params, state):
      network.apply(params, state, None, x)
      return jnp.stack(seen)

    draws = [init(key, x) for key in jax.random.split(jax.random.key(0), SEEDS)]
    seen.clear()  # of the initialisation
    return np.mean([run(*draw) for draw in draws], axis=0)

  return measure


@pytest.fixture
def smaller(monkeypatch):
  """ResNets with half of their channels, and a third of the blocks of the net of Hardt & Ma."""
  plan_of, plan = resnet.resnet_plan, identity.PLANS[56]

  def halved(depth, version):
    plan = plan_of(depth, version)
    stem = dataclasses.replace(plan.stem, channels=plan.stem.channels // 2)
    stages = (dataclasses.replace(s, channels=s.channels // 2) for s in plan.stages)
    return dataclasses.replace(plan, stem=stem, stages=tuple(stages))

  monkeypatch.setattr(resnet, "resnet_plan", halved)
  stages = tuple(dataclasses.replace(stage, blocks=3) for stage in plan.stages)
  monkeypatch.setitem(identity.PLANS, 56, dataclasses.replace(plan, stages=stages))


@pytest.mark.parametrize(
  ("name", "shape", "options"),
  [
    ("mlp", (32, 64), {"width": 256, "depth": 20, "stacked": False, "shortcut_weight": 0.8}),
    ("cifar_resnet20", (2, 8, 8, 16), {"version": 2, "width": 4, "shortcut_weight": 0.5}),
    ("resnet18", (32, 4, 4, 16), {"version": 2, "shortcut_weight": 0.5}),
    ("identity_resnet56", (16, 4, 4, 16), {"shortcut_weight": 0.5}),
  ],
)
def test_every_activation_that_is_mapped_reads_unit_q(name, shape, options, q_values, smaller):
  network = tatnet.nets.create(name, 10, activation="tanh", method=tatnet.DKS(), **options)
  found = q_values(network, inputs_of(name, shape))
  assert len(found) == network.topology.num_nonlinear
  # Single networks of these widths scatter by 0.06 to 0.15, their mean by half of that. A
  # block that lost the weight of its branch or shortcut would change q by a quarter.
  assert found == pytest.approx(1, abs=0.2)


def test_the_tailored_relu_keeps_q_in_expectation(q_values):
  network = tatnet.nets.create(
    "mlp", 10, method=tatnet.TAT(0.8), width=256, depth=20, stacked=False
  )
  found = q_values(network, inputs_of("mlp", (32, 64)))
  # Its factors are random with variance about 3 / width and multiply through the layers:
  # networks scatter by 0.3, their mean by 0.15. Without its scale q would vanish.
  assert found == pytest.approx(1, abs=0.5)


@pytest.fixture(scope="module")
def mean_cosine():
  """A function: cosine of the inputs -> the mean one behind the last activation, and the map's."""
  width = 256
  # With as many logits as units the last layer is orthogonal, and keeps the cosines.
  network = tatnet.nets.create("mlp", width, width=width, depth=20, method=tatnet.TAT(0.8))

  @jax.jit
  def logits(key, x):
    return network.apply(*network.init(key, x), None, x)[0]

  def measure(c):
    basis = np.eye(width)
    x = math.sqrt(width) * (math.sqrt(c) * basis[:1] + math.sqrt(1 - c) * basis[1:33])
    cosines = []
    for key in jax.random.split(jax.random.key(2), SEEDS):
      y = np.asarray(logits(key, x.astype(np.float32)), np.float64)
      y /= np.linalg.norm(y, axis=1, keepdims=True)
      cosines.append((y @ y.T)[np.triu_indices(len(y), 1)].mean())
    return np.mean(cosines), tatnet.cmap(network.topology, network.activation, c)

  return measure


@pytest.mark.parametrize("c", [0.0, 0.5])
def test_cosines_behind_the_last_activation_follow_the_c_map(c, mean_cosine):
  found, expected = mean_cosine(c)
  # Single networks scatter by about 0.05 at this width, and their mean by 0.025.
  assert found == pytest.approx(expected, abs=0.06)
  if c == 0:
    assert expected == pytest.approx(0.8)
