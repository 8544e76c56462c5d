"""The residual networks of the papers, built from the algebra of topologies."""

import math

import tatnet

BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
DEPTHS = (*BASIC, *BOTTLENECK)


def vanilla_count(depth: int) -> int:
  """Nonlinear layers of a v2 net without shortcuts: those of its blocks and the final one."""
  return _layers_per_block(depth) * sum(_stages(depth)) + 1


def resnet(depth: int, version: int, weight: float) -> tatnet.Topology:
  """A ResNet with shortcut weight `weight` and residual weight sqrt(1 - weight^2).

  Version 2 activates before the convolutions and ends with an activation; a
  projection shortcut reads the activated input, so it holds one nonlinear layer.
  Version 1 activates after the sum; the activation that follows its stem comes
  last here, as in the authors' maximising function.
  """
  blocks = []
  for stage, count in enumerate(_stages(depth)):
    for block in range(count):
      # A basic net keeps its 64 channels in the first stage: nothing to project.
      projects = block == 0 and not (depth in BASIC and stage == 0)
      blocks.append(_block(_layers_per_block(depth), version, weight, projects))
  return tatnet.sequence(*blocks, tatnet.nonlinear())


def _stages(depth):
  return (BASIC | BOTTLENECK)[depth]


def _layers_per_block(depth):
  return 2 if depth in BASIC else 3


def _block(layers, version, weight, projects):
  residual = math.sqrt(1 - weight**2)
  if version == 2:
    shortcut = tatnet.nonlinear() if projects else tatnet.identity()
    return tatnet.weighted_sum((weight, shortcut), (residual, tatnet.chain(layers)))
  total = tatnet.weighted_sum((weight, tatnet.identity()), (residual, tatnet.chain(layers - 1)))
  return tatnet.sequence(total, tatnet.nonlinear())
