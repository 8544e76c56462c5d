"""A kernel report as a figure."""

from typing import TYPE_CHECKING

import numpy as np

from tatnet.diagnostics.canvas import canvas
from tatnet.diagnostics.kernels.record import KernelReport

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def report_figure(report: KernelReport) -> "Figure":
  """Four panels: the global C map, q and c by depth, cosines at the last layer, gradients.

  The figure belongs to no window and to no pyplot state: save it with
  ``figure.savefig("report.png")``.

  Args:
    report: from `kernel_report`.

  Returns:
    A `matplotlib.figure.Figure`.

  Raises:
    ImportError: matplotlib is not installed.

  Example:
    >>> def forward(x, activation):
    ...   return hk.Linear(10)(activation(hk.Linear(64)(x)))
    >>> x = jax.random.normal(jax.random.key(0), [8, 64])
    >>> report = tatnet.diagnostics.kernel_report(forward, x, activation="tanh", seeds=2)
    >>> len(tatnet.diagnostics.report_figure(report).axes)
    5
  """
  figure = canvas("report_figure", (10, 7.5))
  panels = figure.subplots(2, 2)
  _global_map(panels[0, 0], report)
  _by_depth(panels[0, 1], report)
  _cosines(panels[1, 0], report)
  _gradients(panels[1, 1], report)
  figure.suptitle(f"{report.activation.name}, {len(report.widths)} layers: {report.verdict.value}")
  return figure


def _global_map(axes, report: KernelReport) -> None:
  axes.plot(report.map_inputs, report.map_inputs, color="0.8", linewidth=1, label="identity")
  axes.plot(report.map_inputs, report.map_outputs, label="global C map")
  axes.set(
    title="From the first layer to the output",
    xlabel="cosine at the first layer",
    ylabel="cosine at the output",
    xlim=(-1, 1),
    ylim=(-1.02, 1.05),
  )
  axes.legend()


def _by_depth(axes, report: KernelReport) -> None:
  depth = np.arange(1, len(report.widths) + 1)
  c = report.c_measured.mean((1, 2))
  axes.plot(depth, report.c_predicted.mean(-1), color="C0", label="c predicted")
  axes.errorbar(
    depth, c, report.c_spread, fmt=".", color="C0", alpha=0.6, label="c measured, spread"
  )
  axes.set(title="q and c by depth", xlabel="layer", ylabel="mean cosine")
  axes.set_ylim(min([-0.05, *(c[np.isfinite(c)] - 0.05)]), 1.05)
  other = axes.twinx()
  q = np.clip(report.q_measured.mean(-1), 1e-38, 1e38)
  other.plot(
    depth, np.clip(report.q_predicted.mean(-1), 1e-38, 1e38), color="C1", label="q predicted"
  )
  other.plot(
    depth, np.exp(np.log(q).mean(-1)), ".", color="C1", alpha=0.6, label="q measured, spread"
  )
  other.fill_between(depth, q.min(-1), q.max(-1), color="C1", alpha=0.15)
  other.set(ylabel="mean q", yscale="log")
  low, high = other.get_ylim()
  other.set_ylim(min(low, 0.1), max(high, 10.0))
  lines = [*axes.get_legend_handles_labels()[0], *other.get_legend_handles_labels()[0]]
  axes.legend(lines, [line.get_label() for line in lines], fontsize="small", loc="lower left")


def _cosines(axes, report: KernelReport) -> None:
  found = report.last_cosines[np.isfinite(report.last_cosines)]
  axes.hist(found, bins=np.linspace(-1, 1, 81), color="C0", alpha=0.6)
  predicted = report.c_predicted[-1].mean()
  if np.isfinite(predicted):
    axes.axvline(predicted, color="C3", label="predicted mean")
    axes.legend()
  axes.set(
    title=f"Cosines at layer {len(report.widths)}",
    xlabel="cosine",
    ylabel="pairs and locations, over all networks",
    xlim=(-1.02, 1.02),
  )


def _gradients(axes, report: KernelReport) -> None:
  depth = np.arange(1, len(report.widths) + 1)
  with np.errstate(all="ignore"):
    logs = np.log(report.gradients_measured) - np.log(report.gradients_measured[-1])
  typical = np.exp(np.clip(np.nan_to_num(logs), -80, 80))
  axes.plot(depth, report.gradients_predicted, color="C2", label="predicted")
  axes.plot(
    depth, np.exp(np.log(typical).mean(-1)), ".", color="C2", alpha=0.6, label="measured, spread"
  )
  axes.fill_between(depth, typical.min(-1), typical.max(-1), color="C2", alpha=0.15)
  axes.set(
    title="Gradient norm by depth", xlabel="layer", ylabel="relative to the last", yscale="log"
  )
  low, high = axes.get_ylim()
  axes.set_ylim(min(low, 0.1), max(high, 10.0))
  axes.legend()
