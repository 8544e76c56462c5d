"""Activations solved for the networks: the tables of the paper's networks, and published slopes."""

import pytest
from published_slopes import ETAS, PUBLISHED, SLOPES

import tatnet
from tatnet.nets import ResNet

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
V2 = [key for key in SLOPES if key[0] == 2]
V1 = [key for key in SLOPES if key[0] == 1]


def solved(topology, eta):
  return tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(eta)).negative_slope


def version_1_by_hand(depth, weight, stem_first=True):
  """f(x, r): the activation that follows the stem comes first, or as in the authors' code last."""

  def f(x, r):
    x = r(x) if stem_first else x
    for _ in range(sum(BLOCKS[depth])):
      x = r(weight**2 * x + (1 - weight**2) * r(r(x)))
    return x if stem_first else r(x)

  return f


@pytest.mark.parametrize("place", range(len(ETAS)), ids=lambda place: f"eta={ETAS[place]}")
@pytest.mark.parametrize("network", V2, ids=str)
def test_version_2_has_the_slopes_of_the_table(network, place):
  _, depth, weight = network
  topology = ResNet.topology(depth, version=2, shortcut_weight=weight)
  expected = SLOPES[network][place]
  if expected is None:
    with pytest.raises(ValueError, match=f"eta={ETAS[place]} is out of reach"):
      solved(topology, ETAS[place])
  else:
    assert solved(topology, ETAS[place]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Version 1 with shortcut_weight")
@pytest.mark.parametrize("place", range(len(ETAS)), ids=lambda place: f"eta={ETAS[place]}")
@pytest.mark.parametrize("network", V1, ids=str)
def test_version_1_has_the_slopes_of_its_map_by_hand(network, place):
  _, depth, weight = network
  topology = ResNet.topology(depth, version=1, shortcut_weight=weight)
  expected = SLOPES[network][place]
  if expected is None:
    with pytest.raises(ValueError, match="out of reach"):
      solved(topology, ETAS[place])
    return
  found = solved(topology, ETAS[place])
  assert found == pytest.approx(solved(version_1_by_hand(depth, weight), ETAS[place]), abs=1e-9)
  # The table is of the other order, and so agrees roughly: by 7e-4 for eta = 0.9.
  other = solved(version_1_by_hand(depth, weight, stem_first=False), ETAS[place])
  assert other == pytest.approx(expected, abs=1e-6)
  assert found == pytest.approx(expected, abs=2e-3)


def test_version_1_at_the_weight_where_the_order_matters_most():
  # Computed for the facts from first principles, in the network's order.
  with pytest.warns(UserWarning, match="shortcut_weight=0.9: its activations read sums"):
    topology = ResNet.topology(50, version=1, shortcut_weight=0.9)
  assert solved(topology, 0.9) == pytest.approx(0.21711, abs=5e-6)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("depth", PUBLISHED)
def test_networks_by_name_have_the_published_slopes(depth, version):
  # Without shortcuts both versions are the same chain.
  network = tatnet.nets.create(f"resnet{depth}", 1000, version=version)
  found = (network.activation.negative_slope, network.activation.output_scale)
  assert found == pytest.approx(PUBLISHED[depth], abs=1e-8)
