"""One writer for a folder."""

import os
import signal
import subprocess
import sys

import pytest

from tatnet import training


def test_a_second_one_is_told_who_has_it(tmp_path):
  lock = training.FolderLock(tmp_path / "run")
  with pytest.raises(training.FolderInUse, match=f"in use by process {os.getpid()} on .*, since"):
    training.FolderLock(tmp_path / "run")
  lock.release()
  lock.release()
  training.FolderLock(tmp_path / "run").release()


def test_a_dead_process_holds_nothing(tmp_path):
  code = f"""
import sys
from tatnet import training
lock = training.FolderLock({str(tmp_path)!r})
print("held", flush=True)
sys.stdin.read()
"""
  process = subprocess.Popen(
    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "held\n"
  with pytest.raises(training.FolderInUse, match=f"process {process.pid} "):
    training.FolderLock(tmp_path)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  training.FolderLock(tmp_path).release()
