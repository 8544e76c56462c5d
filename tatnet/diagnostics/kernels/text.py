"""A kernel report as text."""

from collections.abc import Sequence

import numpy as np

from tatnet.diagnostics.kernels.quantities import KernelQuantities
from tatnet.diagnostics.kernels.verdict import Finding, verdict_of

_ROWS = 26


def report_text(report: KernelQuantities, findings: Sequence[Finding]) -> str:
  """The table, thinned to some two dozen layers, and the verdict with its evidence."""
  layers, seeds, inputs = report.q_measured.shape
  lines = [
    f"{report.activation!r}",
    f"{layers} nonlinear layers, {seeds} random networks, {inputs} inputs,"
    f" {report.c_measured.shape[-1]} pairs. q and c at the inputs of the layers, means over inputs and"
    " pairs; +- is the spread over networks (for c: of one pair), (+-) the expected one. Gradient"
    " norms relative to the last layer.",
    "",
    f"{'layer':>5} {'width':>5} {'q pred.':>9} {'q measured':>19} {'c pred.':>8}"
    f" {'c measured':>17} {'(+-)':>6} {'grad.':>8} {'pred.':>8}",
  ]
  shown = np.unique(np.linspace(0, layers - 1, min(layers, _ROWS)).round().astype(int))
  gradients = report.gradients_relative
  lines += [_row(report, k, gradients[k]) for k in shown]
  lines += [
    "",
    # Rounded first, so that a zero has no sign.
    f"Global C map from the first layer to the output: C(0) ="
    f" {round(report.orthogonal[-1], 4) + 0.0:.4f},"
    f" C'(1) = {report.slopes[-1]:.4g}. Depth over width: {report.narrowness:.2f}.",
    *(f"The trace warned of {item}." for item in report.tolerated),
    f"Verdict: {verdict_of(findings).value}" + (":" if findings else "."),
    *(f"  {finding}  [{report.where[finding.layer - 1]}]" for finding in findings),
  ]
  return "\n".join(lines)


def _row(report: KernelQuantities, k: int, gradient: float) -> str:
  q = report.q_measured[k].mean(-1)
  with np.errstate(all="ignore"):  # q may be beyond the range of numbers
    spread = q.std()
  return (
    f"{k + 1:5d} {report.widths[k]:5d} {report.q_predicted[k].mean():9.4g}"
    f" {q.mean():9.4g} +- {spread:<6.2g} {report.c_predicted[k].mean():8.4f}"
    f" {report.c_measured[k].mean():7.4f} +- {report.c_spread[k]:<6.4f} {report.c_scatter[k]:6.4f}"
    f" {gradient:8.3g} {report.gradients_predicted[k]:8.3g}"
  )
