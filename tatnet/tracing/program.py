"""Walks a jaxpr: calls, loops and branches here, single equations by the rules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tatnet.tracing.findings import Findings
from tatnet.tracing.initial_values import as_written
from tatnet.tracing.network import Network
from tatnet.tracing.places import place_of
from tatnet.tracing.values import Data, Known, Signal, Statistic, Unreadable, Value, Weights

# Calls whose body is read in place, and under which parameter it stands.
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LOOPS = frozenset({"scan", "while", "cond"})


@dataclasses.dataclass
class Equation:
  """One equation as the rules see it.

  Attributes:
    name: the primitive's name.
    inputs: abstract values of the operands.
    in_shapes: their shapes.
    out_shapes: shapes of the results.
    parameters: the primitive's parameters.
    place: where in the model.
    tolerance: relative rounding of the results' dtype.
  """

  name: str
  inputs: list[Value]
  in_shapes: list[tuple[int, ...]]
  out_shapes: list[tuple[int, ...]]
  parameters: dict[str, Any]
  place: str
  tolerance: float


Rule = Callable[["Reader", Equation], list[Value]]


class Reader:
  """Interprets programs over the abstract values.

  Attributes:
    findings: what breaks the rules.
    network: the nodes.
    rules: what to do for each primitive.
    marker: name of the call that stands for the activation to be solved for.
  """

  def __init__(self, rules: dict[str, Rule], fallback: Rule, marker: str, on_marker: Rule):
    self.findings = Findings()
    self.network = Network(self.findings)
    self.rules = rules
    self._fallback, self._marker, self._on_marker = fallback, marker, on_marker

  def run(
    self,
    closed: Any,
    inputs: Sequence[Value],
    outer: str = "",
    needed: Sequence[bool] | None = None,
  ) -> list[Value]:
    """Reads a closed jaxpr, or an open one without constants.

    Args:
      closed: the program.
      inputs: values of its arguments.
      outer: the place from which it is called.
      needed: which of its results matter; all by default.

    Returns:
      The results; an empty `Data` for those that do not matter.
    """
    jaxpr = getattr(closed, "jaxpr", closed)
    environment: dict[Any, Value] = {}
    constants = getattr(closed, "consts", ())
    environment.update(
      (var, constant(value)) for var, value in zip(jaxpr.constvars, constants, strict=False)
    )
    environment.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
      return constant(atom.val) if _literal(atom) else environment[atom]

    wanted = needed or [True] * len(jaxpr.outvars)
    for equation, used in _needed_equations(jaxpr, wanted):
      results = self._equation(equation, [read(atom) for atom in equation.invars], outer, used)
      environment.update(zip(equation.outvars, results, strict=True))
    return [read(v) if want else Data() for v, want in zip(jaxpr.outvars, wanted, strict=True)]

  def _equation(self, equation, inputs: list[Value], outer: str, used: list[bool]) -> list[Value]:
    name, parameters = equation.primitive.name, equation.params
    place = place_of(equation, outer)
    seen = Equation(
      name,
      inputs,
      [tuple(atom.aval.shape) for atom in equation.invars],
      [tuple(getattr(var.aval, "shape", ())) for var in equation.outvars],
      parameters,
      place,
      max(_rounding(var.aval) for var in equation.outvars) if equation.outvars else 0.0,
    )
    if parameters.get("name") == self._marker:
      return self._on_marker(self, seen)
    if name in _LOOPS:
      return getattr(self, f"_{name}")(seen)
    body = next((parameters[key] for key in _BODIES if _is_jaxpr(parameters.get(key))), None)
    if body is not None and name not in self.rules:
      return self.run(body, inputs, place, used)
    return self.rules.get(name, self._fallback)(self, seen)

  def _scan(self, seen: Equation) -> list[Value]:
    body, length = seen.parameters["jaxpr"], seen.parameters["length"]
    # Releases of JAX count the operands differently; the body's ranks tell them
    # apart: what is scanned over loses its leading axis.
    scanned = _rank_differs(body.jaxpr.invars, seen.in_shapes)
    carried = len(seen.out_shapes) - _rank_differs(body.jaxpr.outvars, seen.out_shapes)
    constants = len(seen.inputs) - carried - scanned
    fixed, state = seen.inputs[:constants], seen.inputs[constants : constants + carried]
    stacked = seen.inputs[constants + carried :]
    if not any(is_signal(value) for value in seen.inputs):
      return without_signal(seen)
    order = range(length)
    outputs: list[Value] = []
    for i in reversed(order) if seen.parameters["reverse"] else order:
      slices = [_slice(value, i) for value in stacked]
      results = self.run(body, [*fixed, *state, *slices], f"{seen.place}/{i}")
      state, outputs = results[:carried], results[carried:]
      if not any(map(is_signal, state)) and not any(isinstance(v, Weights) for v in stacked):
        break  # like lax.map over examples: every turn is the same layer on other entries
    # Each step's outputs stand for themselves; those of the last step stand for all.
    lead = next((v.axes[0] for v in stacked if isinstance(v, Signal)), "s")
    return [*state, *(_stacked(value, lead) for value in outputs)]

  def _while(self, seen: Equation) -> list[Value]:
    if not any(is_signal(value) for value in seen.inputs):
      return without_signal(seen)
    self.findings.error(
      "data-dependent control flow",
      seen.place,
      "a while loop over the signal",
      "use a loop with a fixed number of steps (a Python loop, lax.scan or hk.layer_stack).",
    )
    return unreadable(seen)

  def _cond(self, seen: Equation) -> list[Value]:
    index, *operands = seen.inputs
    branches = seen.parameters["branches"]
    if isinstance(index, Known):
      return self.run(
        branches[int(np.clip(index.value, 0, len(branches) - 1))], operands, seen.place
      )
    if not any(is_signal(value) for value in operands):
      return without_signal(seen)
    self.findings.error(
      "data-dependent control flow",
      seen.place,
      "a conditional over the signal, whose predicate is not known while tracing",
      "decide it in Python before tracing, so that the network always computes the same layers.",
    )
    return self.run(branches[-1], operands, seen.place)


def _needed_equations(jaxpr: Any, wanted: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
  """The equations that wanted results depend on, each with which of its own results are.

  What is computed besides, such as averages to be logged, is no part of the network.
  """
  alive = {v for v, want in zip(jaxpr.outvars, wanted, strict=True) if want and not _literal(v)}
  kept = []
  for equation in reversed(jaxpr.eqns):
    used = [var in alive for var in equation.outvars]
    if any(used):
      kept.append((equation, used))
      alive.update(atom for atom in equation.invars if not _literal(atom))
  return kept[::-1]


def _literal(atom: Any) -> bool:
  return hasattr(atom, "val")


def constant(value: Any) -> Value:
  """A constant of the program: its number if all entries are the same."""
  try:
    array = np.asarray(value)
    number = float(array.flat[0])
  except (TypeError, ValueError, IndexError):  # random keys, empty arrays
    return Data()
  uniform = (array == array.flat[0]).all() or (array != array).all()  # or NaN throughout
  return Known(as_written(array.flat[0]) if number == number else number) if uniform else Data()


def is_signal(value: Value) -> bool:
  """Whether a value depends on the network's signal."""
  return isinstance(value, (Signal, Statistic, Unreadable))


def without_signal(seen: Equation) -> list[Value]:
  """Results of an equation that no signal enters and that nothing is known about."""
  leaves = frozenset().union(*(v.leaves for v in seen.inputs if isinstance(v, Weights)))
  certain = all(v.certain for v in seen.inputs if isinstance(v, Weights))
  data = next((v for v in seen.inputs if isinstance(v, Data) and v.kind != "array"), Data())
  kind = "random" if data.kind == "mask" else data.kind
  value = Weights(leaves, certain=certain) if leaves else Data(kind)
  return [value for _ in seen.out_shapes]


def unreadable(seen: Equation) -> list[Value]:
  """Results of an equation that was reported."""
  return [Unreadable() for _ in seen.out_shapes]


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def _rounding(aval: Any) -> float:
  dtype = getattr(aval, "dtype", None)
  size = getattr(dtype, "itemsize", 8)
  # Weights typed with six decimals count as normalised, as in `weighted_sum`.
  return {2: 2e-2}.get(size, 1e-6)


def _rank_differs(inner: Sequence[Any], outer: Sequence[tuple[int, ...]]) -> int:
  return sum(len(var.aval.shape) != len(shape) for var, shape in zip(inner, outer, strict=True))


def _slice(value: Value, i: int) -> Value:
  if isinstance(value, Weights):
    return dataclasses.replace(value, leaves=frozenset(f"{leaf}[{i}]" for leaf in value.leaves))
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=value.axes[1:], layout=(*value.layout, ("slice", i)))
  return value


def _stacked(value: Value, label: str) -> Value:
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=(label, *value.axes), layout=(*value.layout, ("stack",)))
  return value
