"""tatnet: kernel-shaped deep networks without shortcuts or normalisation, in JAX.

The core solves, once and on the host, for activations with which a network's
kernel is well behaved at initialisation (TAT, DKS; EOC as the baseline):

>>> topology = tatnet.chain(49)
>>> activation = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(eta=0.9))
>>> round(activation.negative_slope, 8), round(activation.output_scale, 8)
(0.42590719, 1.30111918)
"""

import importlib
import importlib.metadata

from tatnet.attention import AttentionSchedule, attention_schedule
from tatnet.initializers import ScaledUniformOrthogonal, scaled_uniform_orthogonal
from tatnet.layer import (
  Activation,
  LocalMaps,
  LocalValues,
  TransformedActivation,
  activation_names,
  local_maps,
)
from tatnet.network import (
  Topology,
  centring,
  chain,
  identity,
  mixing,
  nonlinear,
  sequence,
  weighted_sum,
)
from tatnet.preprocessing import per_location_normalize
from tatnet.shaping import DKS, EOC, TAT, cmap, transform_activation, transform_activations
from tatnet.tracing import TopologyError, TopologyWarning, placeholder, trace, trace_apply

_SUBPACKAGES = ("diagnostics", "nets", "optim", "training")
_OF_OPTIM = ("adaptive_kfac", "kfac", "scale_by_kfac", "value_grad_and_factors")


def __getattr__(name: str):
  # Loaded at first use: they need Haiku, which the core does not.
  if name in _SUBPACKAGES:
    return importlib.import_module(f"tatnet.{name}")
  if name in _OF_OPTIM:
    return getattr(importlib.import_module("tatnet.optim"), name)
  raise AttributeError(f"module 'tatnet' has no attribute {name!r}")


__version__ = importlib.metadata.version("tatnet")

__all__ = [
  "DKS",
  "EOC",
  "TAT",
  "Activation",
  "AttentionSchedule",
  "LocalMaps",
  "LocalValues",
  "ScaledUniformOrthogonal",
  "Topology",
  "TopologyError",
  "TopologyWarning",
  "TransformedActivation",
  "activation_names",
  "adaptive_kfac",
  "attention_schedule",
  "centring",
  "chain",
  "cmap",
  "identity",
  "kfac",
  "local_maps",
  "mixing",
  "nonlinear",
  "per_location_normalize",
  "placeholder",
  "scale_by_kfac",
  "scaled_uniform_orthogonal",
  "sequence",
  "trace",
  "trace_apply",
  "transform_activation",
  "transform_activations",
  "value_grad_and_factors",
  "weighted_sum",
]
