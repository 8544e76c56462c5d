"""What a kernel report concludes, and from what."""

import dataclasses
import enum
import math
from collections.abc import Sequence

import numpy as np

from tatnet.diagnostics.kernels.quantities import KernelQuantities


class Verdict(enum.Enum):
  """Whether a network's kernel is fit for training, or what is wrong with it.

  Example:
    >>> tatnet.diagnostics.Verdict.COLLAPSES.value
    'collapses to c = 1'
  """

  WELL_SHAPED = "well shaped"
  EXPLODES = "explodes"
  VANISHES = "vanishes"
  COLLAPSES = "collapses to c = 1"
  CHAOTIC = "chaotic"
  TOO_NARROW = "too narrow for its depth"
  DEPARTS = "does not follow its maps"
  OFF_SCALE = "gets inputs of another size"


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong.

  Attributes:
    verdict: its kind.
    layer: the nonlinear layer at which it shows first, counted from 1.
    evidence: a sentence with the numbers.

  Example:
    >>> kind = tatnet.diagnostics.Verdict.COLLAPSES
    >>> print(tatnet.diagnostics.kernels.Finding(kind, 32, "orthogonal inputs have c = 0.97"))
    collapses to c = 1 at layer 32: orthogonal inputs have c = 0.97
  """

  verdict: Verdict
  layer: int
  evidence: str

  def __str__(self):
    return f"{self.verdict.value} at layer {self.layer}: {self.evidence}"


# What counts as wrong. Tailored ReLUs hold orthogonal inputs at 0.9; ReLUs at the
# edge of chaos reach 0.97 after 32 layers, about as many as were ever trained without
# shortcuts and normalisation.
COLLAPSED = 0.97
Q_RANGE = 100.0
SLOPE = 10.0
NARROW = 1.0
OFF_SCALE = 10.0


def conclude(report: KernelQuantities) -> list[Finding]:
  """Everything that is wrong, what weighs most first; empty if the network is well shaped."""
  findings = [
    *_of_q(report.q_predicted.mean(-1), "predicted"),
    *_of_collapse(report),
    *_of_chaos(report),
  ]
  size = _of_input(report)
  if report.narrowness > NARROW:
    return [*findings, _of_width(report), *size]
  departure = _of_departure(report)
  # Where they depart, the maps are those of another network: what is measured counts.
  return [*findings, *size] if departure is None else [*_of_measurement(report), departure, *size]


def verdict_of(findings: Sequence[Finding]) -> Verdict:
  """The most important finding's, or that the network is well shaped."""
  return findings[0].verdict if findings else Verdict.WELL_SHAPED


def _of_q(q: np.ndarray, source: str) -> list[Finding]:
  layers = len(q)
  with np.errstate(all="ignore"):
    ratio = q / q[0]
  if not np.all(np.isfinite(ratio)):
    k = int(np.argmin(np.isfinite(ratio)))
    before = q[max(k - 1, 0)]
    if before > 1:
      text = f"q leaves the range of numbers; it is {before:.3g} before."
      return [Finding(Verdict.EXPLODES, k + 1, text)]
    text = f"q becomes too small; it is {before:.3g} before."
    return [Finding(Verdict.VANISHES, k + 1, text)]
  for verdict, outside in (
    (Verdict.EXPLODES, ratio > Q_RANGE),
    (Verdict.VANISHES, ratio < 1 / Q_RANGE),
  ):
    if np.any(outside):
      k = int(np.argmax(outside))
      text = (
        f"the {source} q goes from {q[0]:.3g} at layer 1 to {q[k]:.3g} here and {q[-1]:.3g} at layer"
        f" {layers}."
      )
      return [Finding(verdict, k + 1, text)]
  return []


def _of_input(report: KernelQuantities) -> list[Finding]:
  """Methods shape an activation for signals of one q."""
  q, meant = report.q_predicted[0], report.activation.maps.operating_q
  ratio = float(np.mean(q)) / meant
  if not 0 < ratio < math.inf or 1 / OFF_SCALE <= ratio <= OFF_SCALE:
    return []
  text = (
    f"the first layer gets signals of q = {np.mean(q):.3g} ({np.min(q):.3g} to {np.max(q):.3g}), and the"
    f" activation is used as if q were {meant:.3g}: what was solved for q = {meant:.3g} does not hold,"
    " and the outputs' size follows the inputs'. Normalise the inputs, as"
    " tatnet.per_location_normalize does."
  )
  return [Finding(Verdict.OFF_SCALE, 1, text)]


def _of_collapse(report: KernelQuantities) -> list[Finding]:
  collapsed = report.orthogonal >= COLLAPSED
  if not np.any(collapsed):
    return []
  k = max(int(np.argmax(collapsed)), 1)
  measured = report.c_measured.mean((1, 2))
  text = (
    f"orthogonal inputs reach the cosine {report.orthogonal[k]:.4f} behind it, and"
    f" {report.orthogonal[-1]:.4f} at the output; the measured mean goes from {measured[0]:.4f} to"
    f" {measured[-1]:.4f}."
  )
  return [Finding(Verdict.COLLAPSES, k, text)]


def _of_chaos(report: KernelQuantities) -> list[Finding]:
  chaotic = report.slopes > SLOPE
  if not np.any(chaotic):
    return []
  k = max(int(np.argmax(chaotic)), 1)
  text = (
    f"the slope of the C map at 1 is {report.slopes[k]:.3g} behind it and {report.slopes[-1]:.3g} at"
    " the output: inputs that are nearly equal are torn apart, and gradients grow by"
    f" {report.gradients_relative[0]:.3g} from the last layer to the first."
  )
  return [Finding(Verdict.CHAOTIC, k, text)]


def _of_width(report: KernelQuantities) -> Finding:
  layers = len(report.widths)
  text = (
    f"depth over width is {report.narrowness:.2f} ({layers} layers, the narrowest of"
    f" {report.widths.min()}); expected below {NARROW:g}. Random networks scatter about the maps: q"
    f" by {report.q_scatter[-1]:.2f} of its value, and a cosine of"
    f" {report.c_predicted[-1].mean():.3f} by {report.c_scatter[-1]:.3f} (measured from seed to"
    f" seed: {report.c_spread[-1]:.3f})."
  )
  return Finding(Verdict.TOO_NARROW, layers, text)


def _of_departure(report: KernelQuantities) -> Finding | None:
  """Whether the measured means are further from the predicted ones than chance takes them."""
  seeds = report.c_measured.shape[1]
  q, q_noise = report.q_predicted.mean(-1), report.q_scatter**2
  q_measured = report.q_measured.mean(-1)
  c, c_measured = report.c_predicted.mean(-1), report.c_measured.mean((1, 2))
  with np.errstate(all="ignore"):
    # A product of random factors is log-normal: its typical value is below its mean.
    of_q = np.mean(np.log(q_measured), 1) - np.log(q) + q_noise / 2
    allowed_q = 0.4 + 4 * np.sqrt(q_noise / seeds) + q_noise / 2
    of_c = np.abs(c_measured - c)
    allowed_c = 0.05 + 4 * report.c_scatter / np.sqrt(seeds)
  wrong_q = np.isfinite(q) & ~(np.abs(of_q) < allowed_q)
  wrong = wrong_q | (np.isfinite(c) & ~(of_c < allowed_c))
  if not np.any(wrong):
    return None
  k = int(np.argmax(wrong))
  found = (
    f"q is {q_measured[k].mean():.4g} where {q[k]:.4g}"
    if wrong_q[k]
    else f"c is {c_measured[k]:.4g} where {c[k]:.4g}"
  )
  weights = (
    "the weights drawn with variance 1 / inputs (times weight_scale^2 of the activation) and the"
    " biases 0, as tatnet.ScaledUniformOrthogonal does?"
  )
  if report.tolerated:
    # What is known to have no map comes before what may be wrong.
    causes = "; ".join(report.tolerated[:4]) + ("; and more" if len(report.tolerated) > 4 else "")
    text = (
      f"the measured {found} is predicted. The maps leave out what the trace warned of: {causes}."
      f" If that is not the cause: are {weights}"
    )
  else:
    text = f"the measured {found} is predicted. Are {weights}"
  return Finding(Verdict.DEPARTS, k + 1, text)


def _of_measurement(report: KernelQuantities) -> list[Finding]:
  with np.errstate(all="ignore"):
    q = np.exp(np.mean(np.log(report.q_measured.mean(-1)), axis=1))
  findings = _of_q(q, "measured")
  distance = 1 - report.c_measured.mean((1, 2))
  lost = distance < (1 - COLLAPSED) * distance[0]
  if np.any(lost):
    k = int(np.argmax(lost))
    text = f"the measured mean cosine goes from {1 - distance[0]:.4f} to {1 - distance[k]:.5f}."
    findings.append(Finding(Verdict.COLLAPSES, k + 1, text))
  growth = float(report.gradients_relative[0])
  if growth > SLOPE:
    text = f"gradients grow by {growth:.3g} from the last layer to the first."
    findings.append(Finding(Verdict.CHAOTIC, 1, text))
  return findings
