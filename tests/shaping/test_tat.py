"""The Tailored ReLU: published slopes, the tables of the paper's networks, what is in reach."""

import math
import re

import mpmath
import numpy as np
import pytest
from published_slopes import ETAS, PUBLISHED, SLOPES
from topologies import resnet, vanilla_count

import tatnet

OUT_OF_REACH = None

# (depth, shortcut weight) -> the largest C_f(0), at slope 0.
REACH = {
  (18, 0.0): 0.9351, (18, 0.5): 0.9070, (18, 0.8): 0.8280,
  (34, 0.0): 0.9759, (34, 0.5): 0.9618, (34, 0.8): 0.9039,
  (50, 0.0): 0.9874, (50, 0.5): 0.9792, (50, 0.8): 0.9398,
  (101, 0.0): 0.9964, (101, 0.5): 0.9938, (101, 0.8): 0.9778,
  (152, 0.0): 0.9983, (152, 0.5): 0.9971, (152, 0.8): 0.9886,
}  # fmt: skip

RELU_CHAIN = {
  1: 0.31831, 2: 0.49373, 3: 0.60483, 4: 0.68095, 5: 0.73595, 8: 0.83442, 10: 0.87154, 12: 0.89715,
  13: 0.90710, 17: 0.93510, 20: 0.94843, 50: 0.98786, 100: 0.99642, 200: 0.99902,
}  # fmt: skip

# Length of the chain -> slopes for eta = 0.5, 0.8, 0.9, 0.95.
CHAIN_SLOPES = {
  10: (0.450050, 0.147696, None, None),
  20: (0.583846, 0.348833, 0.181380, None),
  50: (0.717938, 0.548274, 0.430523, 0.308296),
  100: (0.792699, 0.662027, 0.570440, 0.476331),
  200: (0.849104, 0.750128, 0.679600, 0.606741),
  500: (0.901954, 0.835000, 0.786240, 0.735177),
  1000: (0.929688, 0.880596, 0.844350, 0.806000),
}

COSINES = np.array([-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 0.9, 0.99])
# (length, eta; None for the plain ReLU) -> C_f at COSINES.
CURVES = {
  (10, None): (0.8548, 0.8564, 0.8596, 0.8645, 0.8715, 0.8818, 0.8976, 0.9251, 0.9559, 0.9925),
  (50, None): (0.9874, 0.9875, 0.9876, 0.9877, 0.9879, 0.9882, 0.9887, 0.9898, 0.9917, 0.9968),
  (200, None): (0.9990, 0.9990, 0.9990, 0.9990, 0.9990, 0.9990, 0.9990, 0.9991, 0.9991, 0.9994),
  (10, 0.5): (0.2428, 0.2944, 0.3539, 0.4220, 0.5, 0.5902, 0.6962, 0.8252, 0.9206, 0.9907),
  (200, 0.5): (0.2290, 0.2853, 0.3486, 0.4197, 0.5, 0.5916, 0.6982, 0.8267, 0.9212, 0.9907),
  (50, 0.9): (0.8822, 0.8853, 0.8890, 0.8938, 0.9, 0.9084, 0.9205, 0.9408, 0.9638, 0.9931),
  (1000, 0.9): (0.8807, 0.8841, 0.8883, 0.8934, 0.9, 0.9087, 0.9212, 0.9416, 0.9643, 0.9932),
}

SIX_DIGITS = 5.01e-7
FIVE_DIGITS = 5.01e-6
FOUR_DIGITS = 5.01e-5


def tailored(topology, eta):
  return tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(eta=eta))


def relu_cmap(c):
  return c + (math.sqrt(max(1 - c**2, 0)) - c * math.acos(min(c, 1))) / math.pi


def slope_to_30_digits(layers, eta):
  """The slope of a chain, by composing the closed form of the C map in multiple precision."""

  def excess(a):
    k = (1 - a) ** 2 / (mpmath.pi * (1 + a**2))
    c = mpmath.mpf(0)
    for _ in range(layers):
      c = c + k * (mpmath.sqrt(1 - c**2) - c * mpmath.acos(c))
    return c - mpmath.mpf(eta)

  with mpmath.workdps(30):
    return float(mpmath.findroot(excess, (0.2, 0.9), solver="anderson", tol=1e-28))


@pytest.mark.parametrize("depth", PUBLISHED)
def test_the_published_slopes(depth):
  slope, scale = PUBLISHED[depth]
  act = tailored(resnet(depth, 2, 0.0), 0.9)
  assert act.negative_slope == pytest.approx(slope, abs=1e-8)
  assert act.output_scale == pytest.approx(scale, abs=1e-8)
  exact = slope_to_30_digits(vanilla_count(depth), 0.9)
  assert act.negative_slope == pytest.approx(exact, abs=1e-12)
  assert act.output_scale == pytest.approx(math.sqrt(2 / (1 + exact**2)), abs=1e-12)
  assert (act.input_scale, act.input_shift, act.output_shift) == (None, None, None)


@pytest.mark.parametrize("network", SLOPES, ids=str)
def test_slopes_of_the_residual_networks(network):
  version, depth, weight = network
  topology = resnet(depth, version, weight)
  for eta, slope in zip(ETAS, SLOPES[network], strict=True):
    if slope is OUT_OF_REACH:
      with pytest.raises(ValueError, match=f"eta={eta} is out of reach"):
        tailored(topology, eta)
    else:
      assert tailored(topology, eta).negative_slope == pytest.approx(slope, abs=SIX_DIGITS)


@pytest.mark.parametrize("network", REACH, ids=str)
def test_the_error_states_what_is_in_reach(network):
  topology = resnet(network[0], 2, network[1])
  with pytest.raises(ValueError, match="out of reach") as error:
    tailored(topology, 0.9999)
  stated = re.search(r"Choose eta below (0\.\d{4}), or a deeper network", str(error.value))[1]
  assert f"at slope 0 they reach {stated}, at slope 1 0.0000" in str(error.value)
  # Two of the printed values were rounded up from a 5 that had itself been rounded.
  assert float(stated) == pytest.approx(REACH[network], abs=1.01e-4)
  assert topology.maximum(0.0, relu_cmap) == pytest.approx(REACH[network], abs=6e-5)
  assert 0 <= tailored(topology, float(stated) - FOUR_DIGITS).negative_slope < 0.03
  with pytest.raises(ValueError, match="out of reach"):
    tailored(topology, float(stated) + FOUR_DIGITS)


def test_the_error_names_the_depth():
  with pytest.raises(ValueError, match=re.escape("eta=0.99 is out of reach for 33 nonlinear")):
    tailored(tatnet.chain(33), 0.99)
  with pytest.raises(ValueError, match=r"for 1 nonlinear layer: at slope 0 they reach 0\.3183"):
    tailored(tatnet.chain(1), 0.9)


@pytest.mark.parametrize("length", RELU_CHAIN)
def test_relu_chains_collapse(length):
  reached = tatnet.cmap(tatnet.chain(length), "relu", 0.0)
  assert reached == pytest.approx(RELU_CHAIN[length], abs=FIVE_DIGITS)


@pytest.mark.parametrize("length", CHAIN_SLOPES)
def test_slopes_of_chains(length):
  for eta, slope in zip((0.5, 0.8, 0.9, 0.95), CHAIN_SLOPES[length], strict=True):
    if slope is OUT_OF_REACH:
      with pytest.raises(ValueError, match="deeper network"):
        tailored(tatnet.chain(length), eta)
    else:
      found = tailored(tatnet.chain(length), eta).negative_slope
      assert found == pytest.approx(slope, abs=SIX_DIGITS)


@pytest.mark.parametrize("net", CURVES, ids=str)
def test_global_c_maps(net):
  length, eta = net
  topology = tatnet.chain(length)
  activation = "relu" if eta is None else tailored(topology, eta)
  curve = tatnet.cmap(topology, activation, COSINES)
  np.testing.assert_allclose(curve, CURVES[net], rtol=0, atol=FOUR_DIGITS)
  # Convex and increasing between the identity and the chord (TAT's bound on the deviation).
  target = tatnet.cmap(topology, activation, 0.0)
  right = COSINES >= 0
  assert np.all(curve[right] >= COSINES[right])
  assert np.all(curve[right] <= target + (1 - target) * COSINES[right] + 1e-12)


@pytest.mark.parametrize("q", [1e-3, 0.5, 1.0, 7.0])
def test_lengths_are_kept(q):
  maps = tatnet.local_maps(tailored(tatnet.chain(49), 0.9))
  assert maps.Q(q) == pytest.approx(q, rel=1e-14)
  assert maps.c_slope(1.0, q, q) == pytest.approx(1.0, rel=1e-14)
