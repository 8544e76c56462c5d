"""Walks a jaxpr: calls, loops and branches here, single equations by the rules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tatnet.tracing.findings import Findings
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

  def run(self, closed: Any, inputs: Sequence[Value], outer: str = "") -> list[Value]:
    """Reads a closed jaxpr, or an open one without constants, called from the place `outer`."""
    jaxpr = getattr(closed, "jaxpr", closed)
    environment: dict[Any, Value] = {}
    constants = getattr(closed, "consts", ())
    environment.update(
      (var, constant(value)) for var, value in zip(jaxpr.constvars, constants, strict=False)
    )
    environment.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
      return constant(atom.val) if hasattr(atom, "val") else environment[atom]

    for equation in jaxpr.eqns:
      results = self._equation(equation, [read(atom) for atom in equation.invars], outer)
      environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _equation(self, equation, inputs: list[Value], outer: str) -> list[Value]:
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
      return self.run(body, inputs, place)
    return self.rules.get(name, self._fallback)(self, seen)

  def _scan(self, seen: Equation) -> list[Value]:
    body, length = seen.parameters["jaxpr"], seen.parameters["length"]
    constants, carried = seen.parameters["num_consts"], seen.parameters["num_carry"]
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
    # Each step's outputs stand for themselves; those of the last step stand for all.
    return [*state, *(_stacked(value) for value in outputs)]

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


def constant(value: Any) -> Value:
  """A constant of the program: its number if all entries are the same."""
  try:
    array = np.asarray(value)
    number = float(array.flat[0])
  except (TypeError, ValueError, IndexError):  # random keys, empty arrays
    return Data()
  uniform = (array == array.flat[0]).all() or (array != array).all()  # or NaN throughout
  return Known(_as_written(array.flat[0]) if number == number else number) if uniform else Data()


def _as_written(number: Any) -> float:
  """A rounded constant as the decimal that it was: 0.8 in float32 is read as 0.8."""
  if isinstance(number, (np.float32, np.float16)):
    return float(str(number))
  return float(number)


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
  return {8: 1e-9, 4: 1e-6, 2: 2e-2}.get(size, 1e-6)


def _slice(value: Value, i: int) -> Value:
  if isinstance(value, Weights):
    return dataclasses.replace(value, leaves=frozenset(f"{leaf}[{i}]" for leaf in value.leaves))
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=value.axes[1:], layout=(*value.layout, ("slice", i)))
  return value


def _stacked(value: Value) -> Value:
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=("s", *value.axes), layout=(*value.layout, ("stack",)))
  return value
