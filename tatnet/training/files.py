"""Small files that are written whole or not at all, and errors that name their file."""

import contextlib
import os
import pathlib


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Writes beside a file, and puts it in its place: a kill or a full disk leaves the old one.

  Args:
    path: of the file; its folder exists.
    content: text, as UTF-8, or bytes.

  Raises:
    OSError: it cannot be written; what was there before is untouched.
  """
  partial = path.with_name(f"{path.name}.partial")
  try:
    with partial.open("wb") as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    partial.unlink(missing_ok=True)
    error.filename = str(path)
    raise


@contextlib.contextmanager
def named(path: pathlib.Path):
  """Errors of an open file know nothing of its path: they get it here."""
  try:
    yield
  except OSError as error:
    if error.filename is None:
      error.filename = str(path)
    raise
