"""What is wrong with a network, collected over the whole trace and reported at once."""

import dataclasses
import warnings


@dataclasses.dataclass(frozen=True)
class Finding:
  """One rule that the network breaks.

  Attributes:
    kind: a short name of the rule, such as "batch normalisation".
    place: module path or source line.
    what: what was found there.
    remedy: what to do about it.

  Example:
    >>> try:
    ...   tatnet.trace(lambda x: jnp.tanh(hk.BatchNorm(True, True, 0.9)(x, True)), jnp.ones([4, 8]))
    ... except tatnet.TopologyError as error:
    ...   error.findings[0].kind, error.findings[0].place
    ('batch normalisation', 'batch_norm')
  """

  kind: str
  place: str
  what: str
  remedy: str


class TopologyError(ValueError):
  """The model breaks the rules of kernel shaping; `findings` lists every place.

  Attributes:
    findings: tuple of `Finding`.

  Example:
    >>> def forward(x, activation):
    ...   return x + activation(hk.Linear(8)(x))
    >>> try:
    ...   tatnet.trace(forward, jnp.ones([4, 8]))
    ... except tatnet.TopologyError as error:
    ...   sorted(finding.kind for finding in error.findings)
    ['dependent branches', 'sum not normalised']
  """

  def __init__(self, findings: tuple[Finding, ...]):
    self.findings = findings
    super().__init__(_report(findings))


class TopologyWarning(UserWarning):
  """Something in the model is outside the theory but tolerated, such as max pooling.

  Attributes:
    findings: tuple of `Finding`.

  Example:
    >>> issubclass(tatnet.TopologyWarning, UserWarning)
    True
  """

  def __init__(self, findings: tuple[Finding, ...] = ()):
    self.findings = findings
    super().__init__(_report(findings))


class Findings:
  """Collects findings; the same one at the same place counts once."""

  def __init__(self):
    self._errors: dict[Finding, None] = {}
    self._warnings: dict[Finding, None] = {}

  def error(self, kind: str, place: str, what: str, remedy: str) -> None:
    """Records a broken rule."""
    self._errors[Finding(kind, place, what, remedy)] = None

  def add(self, finding: Finding) -> None:
    """Records a broken rule that was found before it was known to matter."""
    self._errors[finding] = None

  def warn(self, kind: str, place: str, what: str, remedy: str) -> None:
    """Records something tolerated."""
    self._warnings[Finding(kind, place, what, remedy)] = None

  def report(self) -> None:
    """Warns of what is tolerated; raises `TopologyError` if a rule is broken."""
    if self._warnings:
      warnings.warn(TopologyWarning(tuple(self._warnings)), stacklevel=4)
    if self._errors:
      raise TopologyError(tuple(self._errors))


def _report(findings: tuple[Finding, ...]) -> str:
  """Findings grouped by what they say, with all their places."""
  groups: dict[tuple[str, str, str], list[str]] = {}
  for finding in findings:
    groups.setdefault((finding.kind, finding.what, finding.remedy), []).append(finding.place)
  count = len(findings)
  lines = [f"{count} finding{'' if count == 1 else 's'} in the model:"]
  for number, ((kind, what, remedy), places) in enumerate(groups.items(), 1):
    where = places[0] if len(places) == 1 else f"{len(places)} places:"
    lines.append(f"{number}. {kind} at {where}")
    lines.extend(f"     {place}" for place in places if len(places) > 1)
    lines += [f"   found: {what}", f"   do: {remedy}"]
  return "\n".join(lines)
