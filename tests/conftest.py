"""Settings of every test.

Property-based tests try the same examples in every run, so that a failure is a change's
own. Tests compile many small programs and run each a few times, so that XLA's costly
optimisations do not pay; `.ci/run` has them on for the newest JAX.
"""

import os

from hypothesis import settings

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # before JAX is imported
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
  """The longest file first, lest one worker is left alone with it at the end."""
  items.sort(key=lambda item: item.path.name != "test_train_example.py")
