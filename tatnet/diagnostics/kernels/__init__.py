"""The kernel report: whether a network will train, seen before it trains.

`measurement` observes random networks through `probes`; `prediction` walks the traced
topology with the local maps, and `fluctuations` says how far networks of finite width
may be off. `report` puts them side by side, `verdict` draws the conclusions, `text`
and `figure` show them.
"""

from tatnet.diagnostics.kernels.figure import report_figure
from tatnet.diagnostics.kernels.pairs import InputPairs, input_pairs
from tatnet.diagnostics.kernels.record import KernelReport
from tatnet.diagnostics.kernels.report import kernel_report
from tatnet.diagnostics.kernels.verdict import Finding, Verdict

__all__ = [
  "Finding",
  "InputPairs",
  "KernelReport",
  "Verdict",
  "input_pairs",
  "kernel_report",
  "report_figure",
]
