"""Walks a jaxpr: calls, loops and branches here, single equations by the rules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tatnet.tracing.findings import Finding, Findings
from tatnet.tracing.folding import evaluated
from tatnet.tracing.initial_values import as_written
from tatnet.tracing.network import Network
from tatnet.tracing.nodes import Node
from tatnet.tracing.places import calls_interpolation, place_of
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
    calls: what to do for calls of known names, such as that of the activation to be solved for.
  """

  def __init__(self, rules: dict[str, Rule], fallback: Rule, calls: dict[str, Rule]):
    self.findings = Findings()
    self.network = Network(self.findings)
    self.rules = rules
    self.calls, self._fallback = calls, fallback

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
    if (rule := self.calls.get(_called(parameters))) is not None:
      return rule(self, seen)
    if (known := folded(equation, inputs)) is not None:
      return known
    if name in _LOOPS:
      return getattr(self, f"_{name}")(seen)
    if calls_interpolation(equation):
      return self.rules["interp"](self, seen)
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
      slices = [_slice(value, i, length) for value in stacked]
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
    if isinstance(index, Data) and index.kind == "mask" and len(branches) == 2:
      left_out, kept = (self.run(branch, operands, seen.place) for branch in branches)
      if all(value == Known(0.0) for value in left_out):
        return [dropped_path(self, value, index, seen) for value in kept]
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
  own = array[tuple(slice(None, None if step else 1) for step in array.strides)]
  uniform = (own == array.flat[0]).all() or (own != own).all()  # or NaN throughout
  if uniform:
    return Known(as_written(array.flat[0]) if number == number else number)
  return Data(array=array)


def folded(equation: Any, inputs: Sequence[Value]) -> list[Value] | None:
  """Results of an equation of constants alone, if they are small; else None.

  Masks, bases and averaging matrices are made by the model itself, mostly from `iota`.
  """
  jaxprs = any(_is_jaxpr(value) for value in equation.params.values())
  if jaxprs or equation.effects or not all(_is_constant(value) for value in inputs):
    return None
  if equation.primitive.name.startswith(("random_", "threefry")):
    return None
  if all(isinstance(value, Known) for value in inputs) and inputs:
    return None  # numbers are followed by the rules, as they were written
  arrays = [
    np.broadcast_to(np.asarray(value.value, atom.aval.dtype), atom.aval.shape)
    if isinstance(value, Known)
    else value.array.astype(atom.aval.dtype, copy=False)
    for atom, value in zip(equation.invars, inputs, strict=True)
  ]
  results = evaluated(equation, arrays)
  return None if results is None else [constant(result) for result in results]


def _is_constant(value: Value) -> bool:
  return isinstance(value, Known) or (isinstance(value, Data) and value.array is not None)


def _called(parameters: dict[str, Any]) -> str:
  """The name of the function that a call calls, without JAX's own transformations."""
  return str(parameters.get("name", "")).rpartition("(")[2].rstrip(")")


def is_signal(value: Value) -> bool:
  """Whether a value depends on the network's signal."""
  return isinstance(value, (Signal, Statistic, Unreadable))


def without_signal(seen: Equation) -> list[Value]:
  """Results of an equation that no signal enters and that nothing is known about."""
  leaves = frozenset().union(*(v.leaves for v in seen.inputs if isinstance(v, Weights)))
  certain = all(v.certain for v in seen.inputs if isinstance(v, Weights))
  data = next((v for v in seen.inputs if isinstance(v, Data) and v.kind != "array"), Data())
  if leaves:
    size = max(v.size for v in seen.inputs if isinstance(v, Weights))
    value = Weights(leaves, certain=certain, size=size, is_unknown=True)
  else:
    value = Data("random" if data.kind == "mask" else data.kind, size=data.size)
  return [value for _ in seen.out_shapes]


def unreadable(seen: Equation) -> list[Value]:
  """Results of an equation that was reported."""
  nodes = [v.node for v in seen.inputs if isinstance(v, Unreadable) and v.node is not None]
  return [Unreadable(nodes[0] if nodes else None) for _ in seen.out_shapes]


def report_later(reader: "Reader", seen: Equation, kind: str, what: str, remedy: str) -> Node:
  """A node for what has no map: it is reported if a layer or the output reads it."""
  nodes = [value.node for value in seen.inputs if is_signal(value) and value.node is not None]
  return reader.network.reported(nodes, Finding(kind, seen.place, what, remedy))


def warn_of_gain(reader: "Reader", place: str) -> None:
  """Names what is taken for granted of a gain that is given by its shape alone."""
  reader.findings.warn(
    "gain without a known initial value",
    place,
    "a gain is given by its shape alone, and is taken to start at 1",
    "give the parameters as arrays, as the model's init makes them: gains at the end of branches often"
    " start at 0.",
  )


def dropped_path(reader: "Reader", value: Value, mask: Data, seen: Equation) -> Value:
  """A branch that is left out at random, for all features at once."""
  if not isinstance(value, Signal):
    return value
  reader.findings.warn(
    "drop path",
    seen.place,
    f"a branch is left out at random, for all features at once, and kept with probability"
    f" {mask.keep:.3g}; its q is {1 / mask.keep:.3g} times as large on average, and 0 where it is"
    " left out",
    "for the network as it is evaluated, trace it without; maps are those of the mean.",
  )
  return dataclasses.replace(value, scale=value.scale * mask.scale * mask.keep)


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def _rounding(aval: Any) -> float:
  dtype = getattr(aval, "dtype", None)
  size = getattr(dtype, "itemsize", 8)
  # Weights typed with six decimals count as normalised, as in `weighted_sum`.
  return {2: 2e-2}.get(size, 1e-6)


def _rank_differs(inner: Sequence[Any], outer: Sequence[tuple[int, ...]]) -> int:
  return sum(len(var.aval.shape) != len(shape) for var, shape in zip(inner, outer, strict=True))


def _slice(value: Value, i: int, length: int) -> Value:
  if isinstance(value, Weights):
    leaves = frozenset(f"{leaf}[{i}]" for leaf in value.leaves)
    array = None if value.array is None else value.array[i]
    return dataclasses.replace(value, leaves=leaves, size=value.size // length, array=array)
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=value.axes[1:], layout=(*value.layout, ("slice", i)))
  return value


def _stacked(value: Value, label: str) -> Value:
  if isinstance(value, Signal):
    return dataclasses.replace(value, axes=(label, *value.axes), layout=(*value.layout, ("stack",)))
  return value
