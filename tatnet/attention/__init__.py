"""Attention at its start: kernels over tokens, schedules that plan them, and layers as functions.

At initialisation an attention layer with zero queries is a matrix A that does not depend on the
data, and the kernel over tokens goes through it as ``A K A'``. A schedule holds these matrices, in
closed form; `attention_schedule` plans them together with the nonlinear layers.

>>> topology = tatnet.sequence(*[tatnet.mixing(0.05), tatnet.chain(2)] * 12)
>>> activation = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.9))
>>> schedule = tatnet.attention_schedule(topology, activation, causal=True)
>>> schedule.row_scale(0, tokens=2).round(6).tolist()  # 1 and 0.05 + sqrt(1 - 0.05^2)
[1.0, 1.048749]
"""

from tatnet.attention.exponential import ExponentialLayer
from tatnet.attention.functions import planned_attention, shaped_attention
from tatnet.attention.joint import attention_schedule
from tatnet.attention.layer import AttentionLayer
from tatnet.attention.orthogonal import orthogonal_attention
from tatnet.attention.published import exponential_schedule, uniform_schedule
from tatnet.attention.schedule import AttentionSchedule
from tatnet.attention.token_kernels import token_kernels
from tatnet.attention.uniform import UniformLayer
from tatnet.attention.weights import ProjectionWeights, cut_skip_weights, mimetic_weights

__all__ = [
  "AttentionLayer",
  "AttentionSchedule",
  "ExponentialLayer",
  "ProjectionWeights",
  "UniformLayer",
  "attention_schedule",
  "cut_skip_weights",
  "exponential_schedule",
  "mimetic_weights",
  "orthogonal_attention",
  "planned_attention",
  "shaped_attention",
  "token_kernels",
  "uniform_schedule",
]
