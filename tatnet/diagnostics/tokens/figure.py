"""A token report as a figure."""

from typing import TYPE_CHECKING

from tatnet.diagnostics.canvas import canvas
from tatnet.diagnostics.tokens.report import TokenReport

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def token_figure(report: TokenReport) -> "Figure":
  """Three panels by depth: q of the tokens, their cosines beside the plan, how much they read themselves.

  The figure belongs to no window and to no pyplot state: save it with
  ``figure.savefig("tokens.png")``.

  Args:
    report: from `token_report`.

  Returns:
    A `matplotlib.figure.Figure`.

  Raises:
    ImportError: matplotlib is not installed.

  Example:
    >>> network = tatnet.nets.create("transformer-prenorm", 9, depth=2, width=32, heads=2, context=6)
    >>> report = tatnet.diagnostics.token_report(
    ...   lambda ids: network.forward(ids, network.activation), jnp.arange(6)[None], seeds=1
    ... )
    >>> len(tatnet.diagnostics.token_figure(report).axes)
    3
  """
  figure = canvas("token_figure", (11, 3.8))
  panels = figure.subplots(1, 3)
  places = range(1, len(report.layers) + 1)
  q = [layer.q for layer in report.layers]
  panels[0].errorbar(places, q, [layer.q_spread for layer in report.layers], fmt=".-", capsize=2)
  panels[0].set(title="Size of tokens", ylabel="mean q, and its scatter")
  if min(q) > 0 and max(q) > 10 * min(q):
    panels[0].set_yscale("log")
  else:
    panels[0].set_ylim(0)
  panels[1].plot(places, [layer.cosine for layer in report.layers], ".-", label="measured")
  planned = [(i, layer.planned) for i, layer in zip(places, report.layers, strict=True)]
  planned = [pair for pair in planned if pair[1] is not None]
  if planned:
    panels[1].plot(*zip(*planned, strict=True), "x", color="C1", label="planned")
    panels[1].legend()
  panels[1].set(title="Cosine of two tokens", ylim=(-0.05, 1.05))
  diagonals = [(i, layer.diagonal) for i, layer in zip(places, report.layers, strict=True)]
  diagonals = [pair for pair in diagonals if pair[1] is not None]
  if diagonals:
    panels[2].plot(*zip(*diagonals, strict=True), ".-", color="C2")
  panels[2].set(title="Weight of a token on itself")
  for panel in panels:
    panel.set_xlabel("attention and blocks, in order")
  end = "apart" if report.collapse is None else f"one from {report.collapse} on"
  figure.suptitle(f"{report.seeds} random networks: tokens are {end}")
  return figure
