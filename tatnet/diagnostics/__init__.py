"""Diagnostics: what the papers measure, as tools for one's own models.

`kernel_report`: predicted against measured kernels by depth, and a verdict (TAT, DKS).
`dynamics`: effective learning rates of normalised networks (Mehmeti-Goepel & Wand).
`linear_residual` and `expressivity`: identity parameterisation (Hardt & Ma).
"""

from tatnet.diagnostics import dynamics, expressivity, linear_residual
from tatnet.diagnostics.kernels import (
  InputPairs,
  KernelReport,
  Verdict,
  input_pairs,
  kernel_report,
  report_figure,
)

__all__ = [
  "InputPairs",
  "KernelReport",
  "Verdict",
  "dynamics",
  "expressivity",
  "input_pairs",
  "kernel_report",
  "linear_residual",
  "report_figure",
]
