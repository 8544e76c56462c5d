"""Signals that end a run between two steps, so that its state can be saved."""

import logging
import signal
import threading
from typing import Any

import jax
import numpy as np

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGREE_EVERY = 10
_logger = logging.getLogger(__name__)


class Interruption:
  """Catches Ctrl-C, and the SIGTERM that clusters send before they end a job.

  In the middle of a step the state is half old and half new, and the old half is
  donated to the device; so a signal is noted, which a warning says, and asked for
  between steps. A second signal ends the program at once.

  With several processes the signal may reach them at different steps, and one that
  stopped alone would leave the others waiting. They ask each other every ten steps
  and stop at the same one.

  Example:
    >>> import signal
    >>> with tatnet.training.Interruption() as interruption:
    ...   for step in range(100):
    ...     if step == 3:
    ...       signal.raise_signal(signal.SIGINT)
    ...     if interruption.requested(step):
    ...       break
    >>> step
    3
  """

  def __init__(self):
    self._noted = False
    self._before: dict[int, Any] = {}

  def requested(self, step: int) -> bool:
    """Whether to stop after this step, or batch of an evaluation; the same on all processes."""
    if jax.process_count() == 1:
      return self._noted
    if step % _AGREE_EVERY:
      return False
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array([self._noted])).any())

  def _note(self, number, frame) -> None:
    del frame
    if self._noted:
      signal.signal(number, signal.SIG_DFL)
      signal.raise_signal(number)
    self._noted = True
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    _logger.warning("%s: stopping after this step. A second one ends the run at once.", name)

  def __enter__(self) -> "Interruption":
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
      self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
