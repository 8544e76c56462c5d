"""What a trace warns of, as a report says it."""

import contextlib
import warnings
from collections.abc import Iterator

from tatnet.tracing.findings import Finding, TopologyWarning

_NAMED = 3  # places of a kind


@contextlib.contextmanager
def collected() -> Iterator[list[warnings.WarningMessage]]:
  """Records all warnings."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    yield caught


def findings_of(caught: list[warnings.WarningMessage]) -> list[Finding]:
  """The findings of the warnings of a trace."""
  messages = (warning.message for warning in caught)
  return [f for m in messages if isinstance(m, TopologyWarning) for f in m.findings]


def said(findings: list[Finding]) -> tuple[str, ...]:
  """One item for a kind, such as "max pooling at stem", with its places."""
  places: dict[str, list[str]] = {}
  for finding in findings:
    places.setdefault(finding.kind, []).append(finding.place)
  return tuple(f"{kind} at {_listed(where)}" for kind, where in places.items())


def _listed(places: list[str]) -> str:
  rest = len(places) - _NAMED
  return ", ".join(places[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
