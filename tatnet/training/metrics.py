"""Metrics of a run: JSON lines, and TensorBoard events where tensorboardX is installed."""

import contextlib
import importlib.util
import itertools
import json
import logging
import os
import pathlib

from tatnet.training.events import EventsFile
from tatnet.training.files import named, write_whole

_NAME = "metrics.jsonl"
_logger = logging.getLogger(__name__)


class MetricsWriter:
  """Writes numbers by step to ``metrics.jsonl`` and to TensorBoard.

  Lines that were written after the step from which a run resumes are dropped, so
  that the file holds every step once. They come again, as the run goes on from what was
  saved at that step; where it begins anew, nothing is dropped, and the file that was
  there is kept as ``metrics.jsonl.1``, or the next free number.

  Args:
    folder: where to write; made if it is not there.
    resume_from: the step from which a run resumes; 0 starts the file anew.

  Attributes:
    path: the file of JSON lines.

  Raises:
    OSError: by every method too, where the disk is full, or the like.

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
    self.path = folder / _NAME
    kept = [row for row in read_metrics(folder) if row["step"] <= resume_from]
    if not resume_from and self.path.exists() and self.path.stat().st_size:
      os.replace(self.path, _free_name(self.path))
    write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))
    self._file = self.path.open("a")
    self._events = None
    if importlib.util.find_spec("tensorboardX"):
      try:
        self._events = EventsFile(folder / "tensorboard", resume_from + 1)
      except OSError:
        self._file.close()
        raise

  def write(self, step: int, values: dict[str, float]) -> None:
    """One line: the step and its numbers."""
    with named(self.path):
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      self._file.flush()
    if self._events is not None:
      self._events.scalars(step, values)

  def close(self) -> None:
    """Closes the files, on a full disk too: every line was flushed, or `write` has raised."""
    for file in (self._file, self._events):
      if file is not None:
        with contextlib.suppress(OSError):
          file.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *error) -> None:
    self.close()


def read_metrics(folder: str | pathlib.Path) -> list[dict[str, float]]:
  """The lines of a run's ``metrics.jsonl``; those that are damaged or cut off are left out.

  Args:
    folder: of the run.

  Returns:
    A dictionary for each line; none where there is no such file.

  Example:
    >>> tatnet.training.read_metrics("/no/such/run")
    []
  """
  path = pathlib.Path(folder) / _NAME
  if not path.exists():
    return []
  lines = path.read_text(errors="replace").split("\n")
  rows = [_row(line) for line in lines]
  if damaged := [number for number, row in enumerate(rows[:-1], 1) if row is None]:
    _logger.warning("%s: damaged lines are left out: %s.", path, ", ".join(map(str, damaged)))
  return [row for row in rows if row is not None]


def _row(line: str) -> dict[str, float] | None:
  """A line's numbers; None if it is not what `MetricsWriter` writes."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int:
    return None
  return row if all(type(value) in (int, float) for value in row.values()) else None


def _free_name(path: pathlib.Path) -> pathlib.Path:
  """The name with the first number behind it that is not taken."""
  names = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
  return next(name for name in names if not name.exists())
