"""Several processes of one run: where one fails, the others end with a sentence, in seconds.

Left to themselves they would wait in a sum over all devices, or for each other at the
exit, for minutes.
"""

import os
import pathlib
import sys
import threading
import time

import endings
import jax
from jax.experimental import multihost_utils

_LOOK_EVERY = 0.5
_TIME_TO_NOTICE = 2.0


class Companions:
  """The other processes of a run, met in its folder, which all of them see.

  Args:
    folder: of the run. The process that fails leaves there why it does.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._notice = folder / ".failed"
    self._is_failing = False

  def watch(self) -> None:
    """Ends this process once another one has failed; all processes begin so."""
    if jax.process_index() == 0:
      self._notice.unlink(missing_ok=True)  # of an earlier run
    multihost_utils.sync_global_devices("none has failed yet")
    threading.Thread(target=self._look, daemon=True).start()

  def _look(self) -> None:
    while not self._notice.exists():
      time.sleep(_LOOK_EVERY)
    if not self._is_failing:
      sentence = self._notice.read_text()
      _be_last()
      _end(sentence)

  def fail(self, sentence: str) -> None:
    """Says why this process ends, tells the others, and ends it."""
    self._is_failing = True
    sys.stderr.write(f"{sentence}\n")
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      partial = self._notice.with_name(f"{self._notice.name}.{jax.process_index()}")
      partial.write_text(f"Process {jax.process_index()} has ended the run: {sentence}")
      partial.rename(self._notice)
    except OSError:  # a full disk: they notice later, when it is gone
      pass
    _be_last()
    _end()

  def lost(self, error: Exception) -> None:
    """Ends this process after a failure of what connects it to the others."""
    time.sleep(2 * _TIME_TO_NOTICE)  # in which `watch` ends it, if one of them has said why
    first_line = (str(error).strip() or repr(error)).splitlines()[0]
    _end(
      f"The connection to the other processes failed, one of them may be gone: {first_line}\n"
      f"{endings.what_is_intact(self._folder)}"
    )


def _be_last() -> None:
  """Lets the others end before the first process, without which JAX aborts them at once."""
  if jax.process_index() == 0:
    time.sleep(_TIME_TO_NOTICE)


def _end(sentence: str = "") -> None:
  """Without what Python does at its exit, where JAX waits for the others."""
  if sentence:
    sys.stderr.write(f"{sentence}\n")
  sys.stderr.flush()
  sys.stdout.flush()
  os._exit(endings.ERROR)
