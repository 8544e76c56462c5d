"""TensorBoard's events, each on the disk before the next step."""

import contextlib
import math
import pathlib
import socket
import struct
import time

from tatnet.training.files import named


class EventsFile:
  """One file of events, written without a thread: a kill or a full disk loses nothing before it.

  Args:
    folder: of TensorBoard's log; made if it is not there.
    start: first step to come; TensorBoard forgets what older files have from it on.

  Raises:
    OSError: by every method, where the disk is full, or the like.
  """

  def __init__(self, folder: pathlib.Path, start: int):
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    self._event, self._checksum = Event, masked_crc32c
    folder.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads them in the order of their names.
    self._path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
    self._file = self._path.open("xb")
    try:
      self._write(wall_time=time.time(), file_version="brain.Event:2")
      self._write(step=start, session_log=SessionLog(status=SessionLog.START))
    except OSError:
      with contextlib.suppress(OSError):
        self._file.close()
      raise

  def scalars(self, step: int, values: dict[str, float]) -> None:
    """Writes the finite ones of a step's numbers."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    listed = [{"tag": name, "simple_value": value} for name, value in finite.items()]
    self._write(step=step, wall_time=time.time(), summary={"value": listed})

  def _write(self, **fields) -> None:
    content = self._event(**fields).SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = (struct.pack("<I", self._checksum(part)) for part in (length, content))
    with named(self._path):
      self._file.write(b"".join((length, next(sums), content, next(sums))))
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
