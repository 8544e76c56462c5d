"""Curves of one run or several, as a picture."""

import io
import pathlib
from collections.abc import Mapping

from tatnet.training.files import write_whole
from tatnet.training.metrics import read_metrics

PANELS = (
  ("loss", "training loss"),
  ("accuracy", "training accuracy"),
  ("test_accuracy", "test accuracy"),
)


def plot_runs(
  runs: Mapping[str, str | pathlib.Path], path: str | pathlib.Path, title: str = ""
) -> None:
  """Draws loss and accuracies of runs against their steps.

  Args:
    runs: folders by the name in the legend.
    path: the PNG to write.
    title: what the runs have in common.

  Raises:
    FileNotFoundError: a folder without ``metrics.jsonl``.
    ImportError: matplotlib is not installed.

  Example:
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with tatnet.training.MetricsWriter(folder) as writer:
    ...     writer.write(1, {"loss": 2.5, "accuracy": 0.1})
    ...   tatnet.training.plot_runs({"one": folder}, pathlib.Path(folder) / "curves.png")
    ...   print((pathlib.Path(folder) / "curves.png").stat().st_size > 0)
    True
  """
  try:
    import matplotlib.figure
  except ImportError as error:
    raise ImportError("plot_runs needs matplotlib: pip install 'tatnet[examples]'.") from error
  figure = matplotlib.figure.Figure(figsize=(13, 4.2), layout="constrained")
  panels = figure.subplots(1, len(PANELS))
  for name, folder in runs.items():
    rows = read_metrics(folder)
    if not rows:
      raise FileNotFoundError(f"{folder} has no metrics.jsonl; expected the folder of a run.")
    for axes, (key, heading) in zip(panels, PANELS, strict=True):
      points = [(row["step"], row[key]) for row in rows if key in row]
      if points:
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
      axes.set(xlabel="step", title=heading)
      axes.grid(alpha=0.3)
  if all(row.get("loss", 1) > 0 for folder in runs.values() for row in read_metrics(folder)):
    panels[0].set_yscale("log")
  figure.suptitle(title)
  # Beside the panels, where it covers no curve.
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))
  picture = io.BytesIO()
  figure.savefig(picture, dpi=110)
  write_whole(pathlib.Path(path), picture.getvalue())
