"""The law of single units in a ResNet of version 1, against networks that run."""

import math

import numpy as np
import version_one

import tatnet

WIDTH, BLOCKS = 1024, 4


def measured(activation, weight, rng):
  """q and cosine of two orthogonal inputs behind some blocks of a wide network."""

  def layer(x):
    return rng.standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH) @ x

  def act(x):
    return np.asarray(activation(x.astype(np.float32)), np.float64)

  start = np.linalg.qr(rng.standard_normal((WIDTH, 2)))[0] * math.sqrt(WIDTH)
  x = act(layer(start))
  for _ in range(BLOCKS):
    branch = layer(act(layer(x)))
    x = act(weight * x + math.sqrt(1 - weight**2) * branch)
  kernel = x.T @ x / WIDTH
  return kernel[0, 0], kernel[0, 1] / math.sqrt(kernel[0, 0] * kernel[1, 1])


def test_the_law_is_that_of_wide_networks(monkeypatch):
  monkeypatch.setitem(version_one.BLOCKS, 10, (BLOCKS,))
  activation = tatnet.transform_activation("leaky_relu", tatnet.chain(10), tatnet.TAT(0.6))
  q, c = version_one.Units(activation, 100_000).network(10, 0.8)
  rng = np.random.default_rng(1)
  found = np.mean([measured(activation, 0.8, rng) for _ in range(6)], axis=0)
  assert q > 3  # where the maps say 1
  np.testing.assert_allclose(found, [q, c], rtol=0.1)
