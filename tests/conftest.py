"""Settings of every test.

Property-based tests try the same examples in every run, so that a failure is a change's
own. Tests compile many small programs and run each a few times, so that XLA's costly
optimisations do not pay, nor, in JAX 0.10, its newer way to make kernels, which takes
twice as long; `.ci/run` has all of it on for some files and the newest JAX.
"""

import importlib.metadata
import os

from hypothesis import settings

# Before JAX is imported.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
  flags = os.environ.get("XLA_FLAGS", "")
  # Later versions have no other way, and end a process that has a flag unknown to them.
  if importlib.metadata.version("jaxlib").startswith("0.10.") and "fusion_emitters" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
  """The longest file first, lest one worker is left alone with it at the end."""
  items.sort(key=lambda item: item.path.name != "test_train.py")
