"""Diagnostics: what the papers measure, as tools for one's own models.

`kernel_report`: predicted against measured kernels by depth, and a verdict (TAT, DKS).
`dynamics`: effective learning rates of normalised networks (Mehmeti-Goepel & Wand).
`linear_residual` and `expressivity`: identity parameterisation (Hardt & Ma).
`jacobians` and `tangent_kernel`: singular values, and what they say of training (MacDonald
et al.).
"""

from tatnet.diagnostics import (
  dynamics,
  expressivity,
  jacobians,
  linear_residual,
  tangent_kernel,
)
from tatnet.diagnostics.kernels import (
  InputPairs,
  KernelReport,
  Verdict,
  input_pairs,
  kernel_report,
  report_figure,
)
from tatnet.diagnostics.tokens import TokenLayer, TokenReport, token_figure, token_report

__all__ = [
  "InputPairs",
  "KernelReport",
  "TokenLayer",
  "TokenReport",
  "Verdict",
  "dynamics",
  "expressivity",
  "input_pairs",
  "jacobians",
  "kernel_report",
  "linear_residual",
  "report_figure",
  "tangent_kernel",
  "token_figure",
  "token_report",
]
