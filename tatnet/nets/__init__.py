"""Haiku networks of the papers: shaped or not, with shortcuts or without.

Every network takes the same options (`Options`), and has a `topology` that follows
from the description it is built from. `create` builds one by name.

>>> network = tatnet.nets.create("cifar_resnet20", num_classes=10, method=tatnet.TAT(0.8))
>>> params, state = network.initialize(jax.random.key(0), jnp.ones([2, 32, 32, 3]))
>>> logits, state = network.apply(params, state, None, jnp.ones([2, 32, 32, 3]))
>>> logits.shape
(2, 10)
"""

from tatnet.nets.attention import (
  CutSkipStart,
  IdentityStart,
  KeyValueCache,
  MimeticStart,
  ShapedAttention,
  SoftmaxStart,
)
from tatnet.nets.cifar import CifarResNet, PreActResNet
from tatnet.nets.fast_init import fast_init
from tatnet.nets.gaussian import HeNormal, SmallNormal
from tatnet.nets.identity import IdentityResNet
from tatnet.nets.mlp import MLP
from tatnet.nets.options import Options
from tatnet.nets.prelu import PReLU
from tatnet.nets.registry import BASELINES, Network, architecture_of, create, names
from tatnet.nets.residual import Block, ResidualNetwork
from tatnet.nets.resnet import ResNet
from tatnet.nets.shortcuts import pooled
from tatnet.nets.transformer import Transformer
from tatnet.nets.transformer_block import TransformerBlock, UnitRows
from tatnet.nets.transformer_plan import TransformerPlan
from tatnet.nets.transformer_registry import TRANSFORMER_BASELINES, TRANSFORMERS
from tatnet.nets.vision import VisionTransformer

__all__ = [
  "BASELINES",
  "MLP",
  "TRANSFORMERS",
  "TRANSFORMER_BASELINES",
  "Block",
  "CifarResNet",
  "CutSkipStart",
  "HeNormal",
  "IdentityResNet",
  "IdentityStart",
  "KeyValueCache",
  "MimeticStart",
  "Network",
  "Options",
  "PReLU",
  "PreActResNet",
  "ResNet",
  "ResidualNetwork",
  "ShapedAttention",
  "SmallNormal",
  "SoftmaxStart",
  "Transformer",
  "TransformerBlock",
  "TransformerPlan",
  "UnitRows",
  "VisionTransformer",
  "architecture_of",
  "create",
  "fast_init",
  "names",
  "pooled",
]
