"""Metrics of a run: JSON lines, and TensorBoard events where tensorboardX is installed."""

import importlib.util
import json
import math
import pathlib
from typing import Any


class MetricsWriter:
  """Writes numbers by step to ``metrics.jsonl`` and to TensorBoard.

  Lines that were written after the step from which a run resumes are dropped, so
  that the file holds every step once.

  Args:
    folder: where to write; made if it is not there.
    resume_from: the step from which a run resumes; 0 starts the file anew.

  Attributes:
    path: the file of JSON lines.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   with tatnet.training.MetricsWriter(folder) as writer:
    ...     writer.write(1, {"loss": 2.5})
    ...   print(tatnet.training.read_metrics(folder))
    [{'step': 1, 'loss': 2.5}]
  """

  def __init__(self, folder: str | pathlib.Path, resume_from: int = 0):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self.path = folder / "metrics.jsonl"
    kept = [row for row in read_metrics(folder) if row["step"] <= resume_from]
    partial = folder / "metrics.jsonl.partial"
    partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
    partial.rename(self.path)
    self._file = self.path.open("a")
    self._events: Any = None
    if importlib.util.find_spec("tensorboardX"):
      from tensorboardX import SummaryWriter

      self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_from + 1)

  def write(self, step: int, values: dict[str, float]) -> None:
    """One line: the step and its numbers."""
    self._file.write(json.dumps({"step": step, **values}) + "\n")
    self._file.flush()
    if self._events is not None:
      for name, value in values.items():
        if math.isfinite(value):
          self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    if self._events is not None:
      self._events.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *error) -> None:
    self.close()


def read_metrics(folder: str | pathlib.Path) -> list[dict[str, float]]:
  """The lines of a run's ``metrics.jsonl``; a last line that was cut off is left out.

  Args:
    folder: of the run.

  Returns:
    A dictionary for each line; none where there is no such file.

  Example:
    >>> tatnet.training.read_metrics("/no/such/run")
    []
  """
  path = pathlib.Path(folder) / "metrics.jsonl"
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except ValueError:
      break
  return rows
