"""Which parameters start at one number, read from the program of `init` without running it."""

from typing import Any

import numpy as np


def uniform_outputs(closed: Any) -> list[float | None]:
  """For each output of a closed jaxpr the number in all its entries, or None."""
  return [_uniform(closed.jaxpr, atom, closed.consts) for atom in closed.jaxpr.outvars]


def _uniform(jaxpr: Any, atom: Any, consts=(), outer=None) -> float | None:
  """Looks backwards from an atom; `outer` answers for the inputs of an inner jaxpr."""
  if hasattr(atom, "val"):
    return _number(atom.val)
  for var, value in zip(jaxpr.constvars, consts, strict=False):
    if var is atom:
      return _number(value)
  for position, var in enumerate(jaxpr.invars):
    if var is atom:
      return outer(position) if outer else None
  equation = next((e for e in reversed(jaxpr.eqns) if any(v is atom for v in e.outvars)), None)
  if equation is None:
    return None

  def operand(position):
    return _uniform(jaxpr, equation.invars[position], consts, outer)

  name, parameters = equation.primitive.name, equation.params
  index = next(i for i, v in enumerate(equation.outvars) if v is atom)
  if name in (
    "broadcast_in_dim",
    "convert_element_type",
    "reshape",
    "transpose",
    "squeeze",
    "copy",
  ):
    return operand(0)
  if name in ("add", "sub", "mul", "div"):
    a, b = operand(0), operand(1)
    if a is None or b is None or (name == "div" and b == 0):
      return None
    return {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b if b else 0.0}[name]
  if name in ("neg",):
    value = operand(0)
    return None if value is None else -value
  if name == "scan":
    body = parameters["jaxpr"]
    return _uniform(body.jaxpr, body.jaxpr.outvars[index], body.consts)
  body = parameters.get("jaxpr") or parameters.get("call_jaxpr")
  if body is not None and hasattr(getattr(body, "jaxpr", body), "eqns"):
    inner = getattr(body, "jaxpr", body)
    return _uniform(inner, inner.outvars[index], getattr(body, "consts", ()), operand)
  return None


def _number(value: Any) -> float | None:
  try:
    array = np.asarray(value).astype(np.float64)
  except (TypeError, ValueError):
    return None
  if array.size == 0 or not (array == array.flat[0]).all():
    return None
  return float(array.flat[0])
