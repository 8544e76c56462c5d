"""Several devices on one CPU, for processes that tests start."""

import os


def xla_flags(devices: int) -> str:
  """XLA's flags of the tests, and a number of devices; a process reads them as XLA_FLAGS."""
  return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
