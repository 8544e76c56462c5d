"""Predictions of q, c, gradients and scatter, against values from elsewhere."""

import itertools
import math

import haiku as hk
import jax
import numpy as np
import pytest

import tatnet
from tatnet.diagnostics import input_pairs, kernel_report
from tatnet.diagnostics.kernels.fluctuations import layer_noise
from tatnet.diagnostics.kernels.prediction import State, nonlinear_layers, predict

RELU = tatnet.transform_activation("relu", tatnet.chain(1), tatnet.EOC())


def walked(topology, activation, c, q=1.0, width=1e9):
  start = State(np.array([q]), np.atleast_1d(np.float64(c)), pair=float(np.ravel(c)[0]))
  maps = tatnet.local_maps(activation)
  return predict(topology, start, lambda node: maps, itertools.repeat(width))


def test_relu_chain_by_depth():
  # Independent computation, tat_dks.md A7.
  known = {1: 0.31831, 2: 0.49373, 3: 0.60483, 4: 0.68095, 5: 0.73595, 10: 0.87154, 50: 0.98786}
  prediction = walked(tatnet.chain(51), RELU, 0.0)
  for depth, value in known.items():
    assert prediction.layers[depth].state.c[0] == pytest.approx(value, abs=6e-6)


def test_tailored_relu_table():
  # tat_dks.md A8, eta 0.9, 50 layers.
  topology = tatnet.chain(50)
  act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.9))
  c = [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 0.9, 0.99]
  table = [0.8822, 0.8853, 0.8890, 0.8938, 0.9, 0.9084, 0.9205, 0.9408, 0.9638, 0.9931]
  np.testing.assert_allclose(walked(topology, act, c).output.c, table, atol=6e-5)


@pytest.mark.parametrize("name", ["tanh", "softplus"])
def test_q_through_depth(name):
  # tat_dks.md A8, DKS of 49 layers: q 2 at the input.
  topology = tatnet.chain(49)
  act = tatnet.transform_activation(name, topology, tatnet.DKS(1.5))
  known = {"tanh": 2.113, "softplus": 2.251}[name]
  assert walked(topology, act, 0.0, q=2.0).output.mean_q == pytest.approx(known, abs=6e-4)


@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_residual_network_by_hand(weight):
  block = tatnet.weighted_sum(
    (weight, tatnet.identity()), (math.sqrt(1 - weight**2), tatnet.chain(2))
  )
  topology = tatnet.sequence(tatnet.nonlinear(), block, block, tatnet.nonlinear())
  relu = tatnet.local_maps(RELU).C
  found = walked(topology, RELU, 0.1)
  expected, c = [0.1], relu(0.1)
  for _ in range(2):
    expected += [c, relu(c)]
    c = weight**2 * c + (1 - weight**2) * relu(relu(c))
  expected.append(c)
  np.testing.assert_allclose([layer.state.c[0] for layer in found.layers], expected, atol=1e-9)
  assert found.output.c[0] == pytest.approx(tatnet.cmap(topology, RELU, 0.1), abs=1e-9)


def test_sums_of_unequal_q():
  # One branch halves q, the other keeps it: the cosine is weighted by what q is left.
  topology = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  output = walked(topology, "relu", 0.0).output
  assert output.mean_q == pytest.approx(0.36 + 0.64 / 2, abs=1e-9)
  assert output.c[0] == pytest.approx(0.32 / math.pi / 0.68, abs=1e-9)


def test_slope_of_whole_network():
  topology = tatnet.nets.ResNet.topology(18, shortcut_weight=0.5)
  act = tatnet.transform_activation("tanh", topology, tatnet.DKS(1.5))
  assert walked(topology, act, 0.0).output.slope == pytest.approx(1.5, abs=1e-6)


def test_slopes_inside_branches_are_those_from_the_input():
  """Chaos that builds up before a branch is there in the branch as well."""
  slope, weight = 2.0**0.25, 0.8
  act = tatnet.transform_activation("tanh", tatnet.chain(4), tatnet.DKS(2.0))
  block = tatnet.weighted_sum((weight, tatnet.identity()), (0.6, tatnet.chain(3)))
  inner = tatnet.weighted_sum((0.6, block), (0.8, tatnet.nonlinear()))
  found = walked(tatnet.sequence(tatnet.chain(4), inner, tatnet.nonlinear()), act, 0.0)
  of_block = weight**2 + 0.36 * slope**3
  after = slope**4 * (0.36 * of_block + 0.64 * slope)
  inside = [slope**4 * slope**k for k in range(3)]
  expected = [*(slope**k for k in range(4)), *inside, slope**4, after]
  slopes = [layer.state.slope for layer in found.layers]
  np.testing.assert_allclose(sorted(slopes), sorted(expected), rtol=1e-9)
  assert found.output.slope == pytest.approx(after * slope)


def test_order_of_layers():
  inner = tatnet.nonlinear(RELU)
  topology = tatnet.sequence(
    tatnet.nonlinear(),
    tatnet.weighted_sum((0.6, inner), (0.8, tatnet.chain(2))),
    tatnet.nonlinear(),
  )
  kinds = [node.activation is None for node in nonlinear_layers(topology)]
  assert kinds == [True, False, True, True, True]


def test_noise_of_linear_layers():
  # Isserlis: Var(u^2) = 2, and (1 - c^2)^2 for a cosine.
  noise = layer_noise(tatnet.local_maps(lambda x: x), 1.0, 0.5)
  assert noise.of_q == pytest.approx(2)
  assert noise.of_c == pytest.approx(0.75**2)


def test_scatter_of_relu_q():
  # Var(f^2) / (E f^2)^2 = (3 / 2) / (1 / 4) - 1.
  assert layer_noise(tatnet.local_maps("relu"), 1.0, 0.0).of_q == pytest.approx(5)


def test_narrowness_counts_branches():
  weight = 0.6
  block = tatnet.weighted_sum((weight, tatnet.identity()), (0.8, tatnet.chain(2)))
  output = walked(tatnet.sequence(*[block] * 3), RELU, 0.0, width=10).output
  share = 0.8**2
  assert output.narrowness.total == pytest.approx(3 * (share**2 * 2 + 2 * share * (1 - share)) / 10)
  assert walked(tatnet.chain(20), RELU, 0.0, width=10).output.narrowness.total == pytest.approx(2)


def gaussian_mlp(width, depth):
  def forward(x, activation):
    w_init = hk.initializers.VarianceScaling()

    def layer(x):
      return activation(hk.Linear(width, w_init=w_init)(x))

    x = hk.experimental.layer_stack(depth - 1)(layer)(layer(x))
    return hk.Linear(10, w_init=w_init)(x)

  return forward


def test_expected_scatter_is_the_measured_one():
  act = tatnet.transform_activation("leaky_relu", tatnet.chain(20), tatnet.TAT(0.8))
  pairs = input_pairs([0.0, 0.3, 0.6], (96,))
  report = kernel_report(gaussian_mlp(96, 20), pairs, activation=act, seeds=40)
  for layer in (0, 5, 19):
    assert report.c_spread[layer] == pytest.approx(report.c_scatter[layer], rel=0.35)
  q = report.q_measured[10].mean(-1)
  assert np.std(q) < 1.2 * report.q_scatter[10]
  # Gaussian weights of one layer: q of the preactivations has variance 2 / width.
  assert report.q_scatter[0] == pytest.approx(math.sqrt(2 / 96))


def test_gradients_follow_the_maps():
  report = kernel_report(
    gaussian_mlp(128, 12), jax.random.normal(jax.random.key(1), [8, 128]), activation="tanh"
  )
  measured = report.gradients_measured / report.gradients_measured[-1]
  np.testing.assert_allclose(measured.mean(1), report.gradients_predicted, rtol=0.12)
  # Untransformed tanh shrinks q, and with it the slopes: E[tanh'^2] at each layer's q.
  z, w = np.polynomial.hermite_e.hermegauss(80)
  w, q, factor = w / w.sum(), report.q_predicted[0].mean(), 1.0
  for _ in range(11):
    factor *= w @ np.cosh(np.sqrt(q) * z) ** -4
    q = w @ np.tanh(np.sqrt(q) * z) ** 2
  assert report.gradients_predicted[0] == pytest.approx(math.sqrt(factor), rel=2e-3)
