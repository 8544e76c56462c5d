"""Mixing, dropout and centring: straight lines among the C maps, under every method."""

import math

import numpy as np
import pytest

import tatnet
from tatnet.layer.kernels import rectifier_cmap
from tatnet.network.lines import Dropout

LAYER = tatnet.nonlinear()
RELU = tatnet.TransformedActivation("relu", output_scale=math.sqrt(2))
C0 = 1 / math.pi  # of a ReLU


def test_mixing_is_a_step_towards_one():
  node = tatnet.mixing(0.25)
  assert node.compose(0.2, lambda c: c) == pytest.approx(0.25 + 0.75 * 0.2)
  np.testing.assert_allclose(node.compose(np.array([-1.0, 1.0]), abs), [-0.5, 1.0])
  assert node.num_nonlinear == 0
  assert tatnet.mixing(0) == tatnet.identity()
  assert node == tatnet.mixing(0.25, where="here") != tatnet.mixing(0.3)
  assert repr(tatnet.mixing(0.25, where="block_1")) == "mixing 0.25  [block_1]"


@pytest.mark.parametrize("step", [-0.1, 1.0, 2, math.nan, math.inf])
def test_steps_out_of_range(step):
  with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
    tatnet.mixing(step)


@pytest.mark.parametrize("step", ["0.1", None, True, 1j])
def test_steps_that_are_no_numbers(step):
  with pytest.raises(TypeError, match=r"expected a number in \[0, 1\)"):
    tatnet.mixing(step)


def test_centring_removes_what_all_signals_share():
  net = tatnet.nonlinear(RELU) >> tatnet.centring(tatnet.nonlinear(RELU))
  assert tatnet.cmap(net, "relu", 0.0) == pytest.approx(0, abs=1e-12)
  assert tatnet.cmap(net, "relu", 1.0) == pytest.approx(1, abs=1e-12)
  expected = (rectifier_cmap(0.5, 0.0) - C0) / (1 - C0)
  assert tatnet.cmap(net, "relu", 0.5) == pytest.approx(expected)
  assert tatnet.centring(tatnet.identity()) == tatnet.identity()


def test_behind_a_sum_it_removes_the_share_of_the_activation():
  branch = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear(RELU)))
  centred = branch >> tatnet.centring(branch)
  c = 0.36 * 0.5 + 0.64 * rectifier_cmap(0.5, 0.0)
  expected = (c - 0.64 * C0) / (1 - 0.64 * C0)
  assert tatnet.cmap(centred, "relu", 0.5) == pytest.approx(expected)


def test_it_needs_a_topology():
  with pytest.raises(TypeError, match="expected a Topology"):
    tatnet.centring("relu")


@pytest.mark.parametrize("part", [tatnet.mixing(0.05), tatnet.centring(), Dropout(0.9)], ids=repr)
def test_dks_reaches_its_slope(part):
  net = tatnet.sequence(*[LAYER, part] * 6, LAYER)
  activation = tatnet.transform_activation("tanh", net, tatnet.DKS(1.5))
  # DKS makes C(0) = 0, so that centring changes nothing.
  slope = {"mixing": 0.95, "dropout": 0.9}.get(repr(part).split()[0], 1.0)
  local = activation.local.c_slope
  stretches = [
    local**layers * slope**parts for layers in range(1, 8) for parts in range(max(layers - 1, 0), 7)
  ]
  assert max(stretches) == pytest.approx(1.5, rel=1e-8)


@pytest.mark.parametrize("part", [tatnet.mixing(0.05), tatnet.centring(), Dropout(0.9)], ids=repr)
def test_smooth_tat_reaches_its_curvature(part):
  """C''(1) by finite differences of the composed map, over all stretches."""
  parts = [LAYER, part] * 4 + [LAYER]
  activation = tatnet.transform_activation("tanh", tatnet.sequence(*parts), tatnet.TAT(tau=0.3))
  maps, c0 = activation.maps, activation.local.c0

  def of(piece, c):
    if piece is LAYER:
      return maps.C(c)
    name = repr(piece).split()[0]
    return {"mixing": 0.05 + 0.95 * c, "dropout": 0.9 * c, "centring": (c - c0) / (1 - c0)}[name]

  def curvature(stretch):
    # Centring and mixing keep 1 where it is; dropout is followed along its own values at 1.
    slope, bend = 1.0, 0.0
    for piece in stretch:
      if piece is LAYER:
        slope, bend = slope, bend + activation.local.c_curvature * slope**2
      else:
        step = of(piece, 1.0) - of(piece, 0.5)
        slope, bend = slope * 2 * step, bend * 2 * step
    return bend

  largest = max(
    curvature(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)
  )
  assert largest == pytest.approx(0.3, rel=1e-6)


def test_tailored_relu_reaches_its_cosine():
  net = tatnet.sequence(*[tatnet.mixing(0.02), LAYER] * 12)
  activation = tatnet.transform_activation("leaky_relu", net, tatnet.TAT(0.9))
  c = 0.0
  for _ in range(12):
    c = rectifier_cmap(0.02 + 0.98 * c, activation.negative_slope)
  assert c == pytest.approx(0.9, abs=1e-9)


def test_behind_every_activation_nothing_accumulates():
  """A layer norm behind each layer takes C(0) away again: no more than one layer's can be had."""
  net = tatnet.sequence(*[LAYER, tatnet.centring()] * 13)
  with pytest.raises(ValueError, match=r"at slope 0 they reach 0\.3183"):
    tatnet.transform_activation("leaky_relu", net, tatnet.TAT(0.9))
  activation = tatnet.transform_activation("leaky_relu", net, tatnet.TAT(0.3))
  assert activation.local.c0 == pytest.approx(0.3, abs=1e-9)
  assert tatnet.cmap(net, activation, 0.0) == pytest.approx(0, abs=1e-12)
