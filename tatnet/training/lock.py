"""One writer for a folder: a lock that a dead process does not hold."""

import contextlib
import datetime
import errno
import logging
import os
import pathlib
import socket

_NAME = ".lock"
_logger = logging.getLogger(__name__)


class FolderInUse(OSError):  # noqa: N818, a state of the folder and not of the program
  """Another process writes to the folder; the message says which."""


class FolderLock:
  """Holds a folder for one process, until it is released or the process ends, however it ends.

  The operating system keeps the lock, not the file: what a killed process left behind
  is no lock. Where the file system has none, that is logged as a warning.

  Args:
    folder: to hold; made if it is not there.

  Raises:
    FolderInUse: another process holds it.
    OSError: the folder cannot be written to.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   lock = tatnet.training.FolderLock(folder)
    ...   try:
    ...     tatnet.training.FolderLock(folder)
    ...   except tatnet.training.FolderInUse as error:
    ...     "is in use by process" in str(error)
    ...   lock.release()
    True
  """

  def __init__(self, folder: str | pathlib.Path):
    import fcntl  # not on Windows

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self._file = (folder / _NAME).open("ab+", buffering=0)
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in (errno.EAGAIN, errno.EACCES):
        self._file.seek(0)
        holder = self._file.read().decode().strip() or "another process"
        self._file.close()
        raise FolderInUse(
          f"{folder} is in use by {holder}. Wait until it has ended, or end it, or give another"
          " folder."
        ) from error
      _logger.warning(
        "%s cannot be locked (%s): see that nothing else writes to it.", folder, error
      )
    self._file.truncate(0)
    started = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    with contextlib.suppress(OSError):  # a full disk: it is held without a name
      self._file.write(
        f"process {os.getpid()} on {socket.gethostname()}, since {started}\n".encode()
      )

  def release(self) -> None:
    """Lets the next one in. May be called again."""
    if not self._file.closed:
      with contextlib.suppress(OSError):
        self._file.truncate(0)
        self._file.close()
