"""Compares what is traced of a model with the kernel of the network that runs."""

import dataclasses
import re
import warnings
from collections import defaultdict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tatnet
from battery.models import Model

C_TOLERANCE, Q_TOLERANCE = 0.03, 0.1
AGREES, FLAGGED = "agrees", "flagged"
WRONG, REFUSED, CRASH = "WRONG IN SILENCE", "REFUSED WRONGLY", "CRASH"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a model.

  Attributes:
    outcome: one of those above.
    detail: the findings, or the largest deviations.
  """

  outcome: str
  detail: str

  @property
  def is_right(self) -> bool:
    """Whether the topology holds, or it is said what is at fault."""
    return self.outcome in (AGREES, FLAGGED)


class Recorder:
  """An activation that remembers q, and the cosines where it sees a whole batch."""

  def __init__(self, model: Model):
    self.plain = model.activation
    self.batched = model.batched
    self.calls = 0
    self.q = defaultdict(list)
    self.q_of_locations = defaultdict(list)
    self.cosines = defaultdict(list)

  def __call__(self, x):
    call, self.calls = self.calls, self.calls + 1
    if self.batched:
      jax.debug.callback(self._gram, call, _gram(x), jnp.mean(jnp.square(x), (0, -1)).ravel())
    else:
      jax.debug.callback(self._q, call, jnp.mean(jnp.square(x)))
    return self.plain(x)

  def _q(self, call, q):
    self.q[int(call)].append(float(np.mean(q)))

  def _gram(self, call, gram, q_of_locations):
    self.q[int(call)].append(float(np.mean(np.diag(gram))))
    self.q_of_locations[int(call)].append(np.asarray(q_of_locations))
    self.cosines[int(call)].append(_cosines(gram))


def _gram(x):
  """Mean products of examples, [batch, batch]."""
  x = x.reshape(x.shape[0], -1)
  return x @ x.T / x.shape[1]


def _cosines(gram):
  gram = np.asarray(gram, np.float64)
  sizes = np.sqrt(np.diag(gram))
  with np.errstate(invalid="ignore"):  # an output of 0 has none
    return gram / np.outer(sizes, sizes)


@dataclasses.dataclass(frozen=True)
class Measured:
  """Of several networks; the first axis of every array is the seed.

  Attributes:
    q: mean q of the input of each marked layer, a scalar.
    q_of_locations: the same for each location; seeds times repeats of the layer.
    q_at_end: mean q of the output; None if that is not looked at.
    cosines: of the output, or of what the last marked layer puts out.
  """

  q: dict[int, np.ndarray]
  q_of_locations: dict[int, np.ndarray]
  q_at_end: np.ndarray | None
  cosines: np.ndarray


def measured(model: Model, seeds: int) -> Measured:
  """Runs new networks of the model."""
  recorder = Recorder(model)

  @eqx.filter_jit  # parameters of Equinox hold functions too
  def run(params, key):
    outputs = model.apply(params, key, recorder)
    return None if model.at == "activation" else jax.tree.leaves(outputs)[0]

  keys = jax.random.split(jax.random.key(1), (seeds, 2))
  outputs = [run(model.start(first), second) for first, second in keys]
  jax.effects_barrier()
  q = {call: np.reshape(values, (seeds, -1)).mean(1) for call, values in recorder.q.items()}
  if model.at == "activation":  # of the last layer, as that layer leaves them
    last = np.reshape(recorder.cosines[recorder.calls - 1], (seeds, -1, *model.inputs.gram.shape))
    cosines = tatnet.cmap(tatnet.chain(1), model.activation, np.clip(last, -1, 1)).mean(1)
    q_at_end = None
  else:
    grams = [_gram(np.asarray(y, np.float64)) for y in outputs]
    cosines = np.array([_cosines(gram) for gram in grams])
    q_at_end = np.array([np.diag(gram).mean() for gram in grams])
  q_of_locations = {call: np.stack(values) for call, values in recorder.q_of_locations.items()}
  return Measured(q, q_of_locations, q_at_end, cosines)


def _far(values, expected: float, tolerance: float, errors: float = 2.0) -> float | None:
  """The mean that is farthest beyond the tolerance and some standard errors, if one is."""
  mean = np.mean(values, axis=0)
  error = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
  beyond = np.abs(mean - expected) - (tolerance + errors * error)
  worst = np.nanargmax(np.where(np.isnan(beyond), np.inf, beyond))
  return None if np.ravel(beyond)[worst] <= 0 else float(np.ravel(mean)[worst])


def deviations(model: Model, topology: tatnet.Topology, seeds: int) -> list[str]:
  """Where the measured network is not the traced one."""
  seen = measured(model, seeds)
  found = []
  for call, values in seen.q.items():
    q = _far(values, 1.0, Q_TOLERANCE)
    if q is not None:
      found.append(f"q = {q:.3g} at marked layer {call + 1}")
  if not found:  # right on average, but at each location? They are many: five errors.
    for call, values in seen.q_of_locations.items():
      q = _far(values, 1.0, Q_TOLERANCE, 5.0)
      if q is not None:
        found.append(f"q = {q:.3g} at a location of marked layer {call + 1}")
  if model.q is not None and seen.q_at_end is not None:
    q = _far(seen.q_at_end, model.q, Q_TOLERANCE * model.q)
    if q is not None:
      found.append(f"q = {q:.3g} at the end, not {model.q:.3g}")
  upper = np.triu_indices(len(model.inputs.gram), 1)
  starts = model.inputs.gram[upper]
  for start in np.unique(starts):
    predicted = float(tatnet.cmap(topology, model.activation, float(start)))
    c = _far(seen.cosines[:, *upper][:, starts == start].mean(1), predicted, C_TOLERANCE)
    if c is not None:
      found.append(f"c {start:.2g} -> {c:.3f}, predicted {predicted:.3f}")
  return found


def _said(findings) -> str:
  return "; ".join(f"{f.kind}: {f.what}" for f in findings)


def _found_in(caught) -> str:
  """What was warned of, without the remedies, which name much else."""
  texts = [str(w.message) for w in caught if w.category is tatnet.TopologyWarning]
  lines = [line.strip() for text in texts for line in text.splitlines()[1:]]
  return " ".join(line for line in lines if not line.startswith("do: "))


def judge(model: Model, seeds: int = 16) -> Outcome:
  """Traces a model and, if it is accepted, measures it."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
      topology = model.trace()
    except tatnet.TopologyError as error:
      wrong = [
        f
        for f in error.findings
        if not (model.finding and re.search(model.finding, f"{f.kind}: {f.what}"))
      ]
      return Outcome(REFUSED if wrong else FLAGGED, _said(wrong or error.findings))
    except Exception as error:  # whatever it is, a user would meet it
      return Outcome(CRASH, f"{type(error).__name__}: {str(error)[:200]}")
  said = _found_in(caught)
  try:
    found = deviations(model, topology, seeds)
  except Exception as error:
    return Outcome(CRASH, f"with the topology: {type(error).__name__}: {str(error)[:200]}")
  warned = f"warned: {said[:120]}" if said else ""
  if not found:
    return Outcome(AGREES, warned)
  if model.finding and re.search(model.finding, said):
    return Outcome(FLAGGED, warned)
  return Outcome(WRONG, "; ".join([*found, warned] if warned else found))
