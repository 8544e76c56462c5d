"""Property-based tests try the same examples in every run, so that a failure is a change's own."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
