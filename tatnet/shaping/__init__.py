"""TAT, DKS and EOC: targets for a network become conditions on a layer, and those numbers.

Each method owns what is its own, in one file: its record, what it asks of a layer, and what
it says when that is out of reach. `solver` and its `landscape` serve them.
"""

from tatnet.shaping.dks import DKS
from tatnet.shaping.eoc import EOC
from tatnet.shaping.global_maps import cmap
from tatnet.shaping.tat import TAT
from tatnet.shaping.transform import transform_activation, transform_activations

__all__ = ["DKS", "EOC", "TAT", "cmap", "transform_activation", "transform_activations"]
