"""The algebra of networks: the nodes of a topology, and the functions that build them."""

from tatnet.network.builders import chain, identity, nonlinear, sequence, weighted_sum
from tatnet.network.nodes import Topology

__all__ = ["Topology", "chain", "identity", "nonlinear", "sequence", "weighted_sum"]
