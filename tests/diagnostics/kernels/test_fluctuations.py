"""The expected scatter of cosines, against random networks of finite width."""

import itertools
import math

import numpy as np
import pytest

import tatnet
from tatnet.diagnostics.kernels.fluctuations import layer_noise, linear_noise, spread
from tatnet.diagnostics.kernels.prediction import State, predict
from tatnet.diagnostics.kernels.report import _of_a_linear_layer

NETWORKS = {
  # name: (activation, layers)
  "tailored relu": (
    tatnet.transform_activation("leaky_relu", tatnet.chain(30), tatnet.TAT(0.9)),
    30,
  ),
  "TAT softplus": (
    tatnet.transform_activation("softplus", tatnet.chain(30), tatnet.TAT()),
    30,
  ),
  "DKS tanh": (tatnet.transform_activation("tanh", tatnet.chain(20), tatnet.DKS()), 20),
  "tanh that grows": (tatnet.TransformedActivation("tanh", output_scale=1.3), 10),
  "gelu that drifts": (tatnet.TransformedActivation("gelu", output_scale=1.4), 8),
}


def cosines_of_networks(function, layers, width, seeds, cosine):
  """Means and deviations of c in front of each layer, over networks with Gaussian weights.

  Preactivations of a layer with Gaussian weights are independent from unit to unit, and
  normal with the covariance of what enters it: drawn here as such.
  """
  rng = np.random.default_rng(0)
  q, p = np.ones([2, seeds, 1]), np.full([seeds, 1], cosine)
  found = []
  for _ in range(layers):
    c = np.clip(p / np.sqrt(q[0] * q[1]), -1, 1)
    first, other = rng.standard_normal([2, seeds, width])
    u = np.sqrt(q) * np.stack([first, c * first + np.sqrt(1 - c**2) * other])
    of_inputs = np.sum(u[0] * u[1], 1) / np.sqrt(np.sum(u[0] ** 2, 1) * np.sum(u[1] ** 2, 1))
    found.append((of_inputs.mean(), of_inputs.std()))
    f = function(u)
    q, p = np.mean(f**2, -1, keepdims=True), np.mean(f[0] * f[1], -1, keepdims=True)
  return np.array(found).T


@pytest.mark.parametrize("cosine", [0.0, 0.9])
@pytest.mark.parametrize("name", NETWORKS)
def test_scatter_of_random_networks(name, cosine):
  record, layers = NETWORKS[name]
  width, seeds = 256, 400
  mean, deviation = cosines_of_networks(lambda u: record.jet(u)[0], layers, width, seeds, cosine)
  start = State(np.ones(1), np.array([cosine]), pair=cosine)
  walked = predict(tatnet.chain(layers), start, lambda node: record.maps, itertools.repeat(width))
  states = [layer.state for layer in walked.layers]
  expected = np.sqrt([s.c_variance + _of_a_linear_layer(s) / width for s in states])
  # A deviation of so many samples is itself off by 5 %; what is neglected makes as much.
  np.testing.assert_allclose(expected, deviation, rtol=0.16)
  chance = 4 * deviation / math.sqrt(seeds)
  assert np.all(np.abs([s.pair for s in states] - mean) < chance + 0.01)


@pytest.mark.parametrize("c", [-0.5, 0.0, 0.9])
def test_linear_layers_have_noise_in_closed_form(c):
  noise = layer_noise(tatnet.local_maps(lambda x: x), 1.7, c)
  np.testing.assert_allclose(noise.of_pair, linear_noise(c), atol=1e-12)
  assert noise.drift == pytest.approx(-c * (1 - c**2) / 2, abs=1e-12)
  assert noise.q_slope == pytest.approx(1)
  assert noise.c_in_q == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["tanh", "softplus", "gelu", "sin", "leaky_relu"])
def test_derivatives_in_q(name):
  maps, q, c, h = tatnet.local_maps(name), 1.3, 0.6, 1e-4
  noise = layer_noise(maps, q, c)
  up, down = q * math.exp(h), q * math.exp(-h)
  of_c = (maps.C(c, up, up) - maps.C(c, down, down)) / (2 * h)
  of_q = (math.log(maps.Q(up)) - math.log(maps.Q(down))) / (2 * h)
  assert noise.c_in_q == pytest.approx(of_c, abs=1e-3 if name == "leaky_relu" else 1e-6)
  assert noise.q_slope == pytest.approx(of_q, abs=1e-3 if name == "leaky_relu" else 1e-6)


@pytest.mark.parametrize(
  ("mean", "deviation"), [(0.0, 0.3), (0.9, 0.1), (-0.97, 0.05), (0.999, 0.01)]
)
def test_points_that_stand_for_a_distribution(mean, deviation):
  """Moments of Beta variables drawn at random."""
  cosines, weights = spread(mean, deviation**2)
  size = (1 - mean**2) / deviation**2 - 1
  draws = np.random.default_rng(0).beta(size * (1 + mean) / 2, size * (1 - mean) / 2, 400_000)
  for power in range(1, 7):
    expected = np.mean((2 * draws - 1) ** power)
    assert weights @ cosines**power == pytest.approx(expected, abs=5 * deviation / 600 * power)
  assert np.all(np.abs(cosines) <= 1)


@pytest.mark.parametrize("mean", [-1.0, 1.0, 1 + 1e-12, 0.4])
def test_no_spread(mean):
  cosines, weights = spread(mean, 0.0)
  np.testing.assert_allclose(cosines, np.clip(mean, -1, 1))
  assert weights.sum() == pytest.approx(1)
