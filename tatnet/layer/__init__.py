"""One nonlinear layer: phi with its derivatives and kinks, its Q and C maps, the solved record."""

from tatnet.layer.activations import Activation, activation_names
from tatnet.layer.maps import LocalMaps, LocalValues
from tatnet.layer.record import TransformedActivation, local_maps

__all__ = [
  "Activation",
  "LocalMaps",
  "LocalValues",
  "TransformedActivation",
  "activation_names",
  "local_maps",
]
