"""The algebra of networks: the nodes of a topology, and the functions that build them."""

from tatnet.network.builders import (
  centring,
  chain,
  identity,
  mixing,
  nonlinear,
  sequence,
  weighted_sum,
)
from tatnet.network.nodes import Topology

__all__ = [
  "Topology",
  "centring",
  "chain",
  "identity",
  "mixing",
  "nonlinear",
  "sequence",
  "weighted_sum",
]
