"""Signals between steps, and the arguments of runs of several processes."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from simulated_devices import xla_flags

from tatnet import training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_handlers_come_back(number):
  before = signal.getsignal(number)
  with training.Interruption() as interruption:
    assert not interruption.requested(1)
    signal.raise_signal(number)
    assert interruption.requested(2)
    assert interruption.requested(3)
  assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_program():
  code = """
import signal
from tatnet import training
with training.Interruption():
  signal.raise_signal(signal.SIGTERM)
  print("noted", flush=True)
  signal.raise_signal(signal.SIGTERM)
  print("never", flush=True)
"""
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert result.returncode == -signal.SIGTERM
  assert result.stdout == "noted\n"


def test_threads_that_may_not_set_handlers():
  results = []

  def use():
    with training.Interruption() as interruption:
      results.append(interruption.requested(1))

  thread = threading.Thread(target=use)
  thread.start()
  thread.join()
  assert results == [False]


@pytest.mark.parametrize(
  "given", [("host:1", None, None), ("host:1", 2, None), (None, 2, 0), (None, None, 0)]
)
def test_half_an_address(given):
  with pytest.raises(ValueError, match="expected all three, or none"):
    training.start_processes(*given)


def test_processes_with_different_numbers_of_devices():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  code = "from tatnet import training; training.start_processes({!r}, 2, {})"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code.format(address, number)],
      env={**os.environ, "XLA_FLAGS": xla_flags(devices)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for number, devices in enumerate((3, 1))
  ]
  errors = [process.communicate(timeout=120)[1] for process in processes]
  for devices, error in zip((3, 1), errors, strict=True):
    assert f"ValueError: This process has {devices} of 4 devices" in error
    assert "expected as many devices in each" in error
