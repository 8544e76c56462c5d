"""How a run ends before its end: exit codes for schedulers, and a sentence for its user."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

from tatnet import training
from tatnet.training.data import DamagedData, UnreadableImage

ERROR = 1  # what was asked for, the data, the disk; 2 is an unknown flag
DIVERGED = 3
STOPPED = 75  # saved before its end: the same command with --resume goes on
INTERRUPTED = 130  # by Ctrl-C while there was nothing to save


class Ended(SystemExit):
  """Ends the program with a sentence on stderr and an exit code.

  Attributes:
    code: of the process, one of the above.
  """

  def __init__(self, sentence: str, code: int = ERROR):
    super().__init__(sentence)
    self.code = code


@contextlib.contextmanager
def sentences(folder: pathlib.Path) -> Iterator[None]:
  """The one place where an error of files becomes a sentence: the path, and what is intact."""
  try:
    yield
  except (DamagedData, UnreadableImage) as error:
    raise Ended(str(error)) from error
  except training.CheckpointNotWritten as error:
    raise Ended(f"{error}\n{what_is_intact(folder)}") from error
  except OSError as error:
    if error.strerror is None:  # one of the library's, which says it all
      raise Ended(str(error)) from error
    raise Ended(f"{_what_failed(error)}\n{what_is_intact(folder)}") from error


def _what_failed(error: OSError) -> str:
  path = pathlib.Path(error.filename or ".")
  existing = next((each for each in path.absolute().parents if each.is_dir()), pathlib.Path("/"))
  free = shutil.disk_usage(existing).free / 2**20
  return f"{path}: {error.strerror}, with {free:.0f} MB free on that disk."


def what_is_intact(folder: pathlib.Path) -> str:
  """The last good checkpoint, and how to go on from it."""
  last = training.Checkpoints(folder / "checkpoints").latest()
  if last is None:
    return f"There is no checkpoint in {folder}."
  return f"The checkpoint of step {last} in {folder} is intact; --resume goes on from it."
