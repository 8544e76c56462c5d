"""Rules for the library's own attention, which stands in a program as a call of a known name."""

import math

from tatnet.attention.functions import PLANNED, SHAPED
from tatnet.tracing.mixing import mixed
from tatnet.tracing.program import Equation, Reader, is_signal, unreadable
from tatnet.tracing.signals import linear, pooled, starts_at_zero
from tatnet.tracing.values import Known, Signal, Value


def planned(reader: Reader, seen: Equation) -> list[Value]:
  """Attention that starts as a layer of a schedule: a mixing of its step."""
  queries, keys, values, step = seen.inputs[-4:]
  signal = _values(reader, seen, values)
  if signal is None or not isinstance(step, Known):
    return unreadable(seen)
  _check_queries(reader, seen, queries, keys)
  if not math.isfinite(step.value):
    reader.findings.error(
      "attention planned alone",
      seen.place,
      "attention starts between exponential kernels (E-SPA), which nonlinear layers leave: q grows with"
      " depth, and cosines differ from pair to pair",
      "plan attention and nonlinear layers together: tatnet.mixing(step) in the topology, and"
      " tatnet.attention_schedule; or solve for the nonlinear layers alone, tatnet.chain(n), which only"
      " rectifiers bear.",
    )
    return [Signal(reader.network.mended(signal.node, seen.place), 1.0, signal.axes)]
  return [mixed(reader, seen, signal, step.value)]


def shaped(reader: Reader, seen: Equation) -> list[Value]:
  """Shaped attention and Value-SkipInit: the identity, if their gains start so."""
  start = next(i for i, shape in enumerate(seen.in_shapes) if len(shape) >= 4)
  queries, keys, values, *gains = seen.inputs[start:]
  signal = _values(reader, seen, values)
  if signal is None:
    return unreadable(seen)
  alpha, beta, gamma = (_initial(gain) for gain in (*gains, Known(0.0))[:3])
  if None not in (alpha, beta, gamma) and alpha == 1 and beta == gamma:
    if beta:  # its difference from the centre vanishes for queries of zero
      _check_queries(reader, seen, queries, keys)
    return [signal]
  if alpha == gamma == 0:
    _report_softmax(reader, seen)
  else:
    _report_gains(reader, seen, alpha, beta, gamma)
  return [Signal(reader.network.mended(signal.node, seen.place), 1.0, signal.axes)]


def _report_softmax(reader: Reader, seen: Equation) -> None:
  reader.findings.error(
    "softmax attention",
    seen.place,
    "tokens are averaged with weights that depend on the data, or are all alike: cosines of tokens go to 1"
    " with depth, whatever the nonlinear layers are, and q falls",
    "let attention start as it is planned, by tatnet.mixing(step) in the topology and"
    " tatnet.attention_schedule; or as the identity, as shaped attention does.",
  )


def _report_gains(reader: Reader, seen: Equation, *gains: float | None) -> None:
  shown = ", ".join("not known" if gain is None else f"{gain:g}" for gain in gains)
  reader.findings.error(
    "attention that does not start as the identity",
    seen.place,
    f"the gains of the identity, of attention and of its centre start at {shown}",
    "let the gain of the identity start at 1 and the other two at one number (1 in shaped attention, 0"
    " in Value-SkipInit); give parameters as arrays if they are shapes.",
  )


def _values(reader: Reader, seen: Equation, value: Value) -> Signal | None:
  value = pooled(reader, value, seen)
  return linear(reader, value, seen) if isinstance(value, Signal) else None


def _check_queries(reader: Reader, seen: Equation, *operands: Value) -> None:
  """Warns unless the logits are 0 at the start."""
  if any(starts_at_zero(value) for value in operands):
    return
  if any(is_signal(value) for value in operands):
    reader.findings.warn(
      "queries that do not start at zero",
      seen.place,
      "logits depend on the data from the start, and the matrix of attention is that of the plan only as"
      " far as they are small",
      "let the weights of the queries start at zero, or small if K-FAC is to see the keys; with gains"
      " well below 1 the map holds to about their square.",
    )


def _initial(value: Value) -> float | None:
  return value.value if isinstance(value, Known) else getattr(value, "initial", None)


CALLS = {PLANNED: planned, SHAPED: shaped}
