"""TAT, DKS and EOC: targets for a network become conditions on a layer, and those numbers."""

from tatnet.shaping.methods import DKS, EOC, TAT
from tatnet.shaping.transform import cmap, transform_activation, transform_activations

__all__ = ["DKS", "EOC", "TAT", "cmap", "transform_activation", "transform_activations"]
