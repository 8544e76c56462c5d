"""Which parameters start at one number, read from the program of `init` without running it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_SAME = ("broadcast_in_dim", "convert_element_type", "reshape", "transpose", "squeeze", "copy")
_ARITHMETIC = {
  "add": lambda a, b: a + b,
  "sub": lambda a, b: a - b,
  "mul": lambda a, b: a * b,
  "div": lambda a, b: a / b if b else None,
}


def uniform_outputs(closed: Any) -> list[float | None]:
  """For each output of a closed jaxpr the number in all its entries, or None."""
  program = _Program(closed.jaxpr, closed.consts)
  return [program.uniform(atom) for atom in closed.jaxpr.outvars]


class _Program:
  """Looks backwards from an output to where it was made.

  Args:
    jaxpr: an open jaxpr.
    consts: values of its constant variables.
    argument: answers for the input at a position, where the caller knows it.
  """

  def __init__(
    self, jaxpr: Any, consts: Sequence[Any] = (), argument: Callable[[int], Any] | None = None
  ):
    self._argument = argument or (lambda _: None)
    self._inputs = {var: position for position, var in enumerate(jaxpr.invars)}
    self._constants = dict(zip(jaxpr.constvars, consts, strict=False))
    self._made_by = {
      var: (equation, index)
      for equation in jaxpr.eqns
      for index, var in enumerate(equation.outvars)
    }

  def uniform(self, atom: Any) -> float | None:
    """The number in all entries of an atom, or None."""
    if hasattr(atom, "val"):
      return _number(atom.val)
    if atom in self._constants:
      return _number(self._constants[atom])
    if atom in self._inputs:
      return self._argument(self._inputs[atom])
    equation, index = self._made_by[atom]
    name, operands = equation.primitive.name, equation.invars
    if name in _SAME:
      return self.uniform(operands[0])
    if name in _ARITHMETIC:
      numbers = [self.uniform(operand) for operand in operands]
      return None if None in numbers else _ARITHMETIC[name](*numbers)
    body = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    jaxpr = getattr(body, "jaxpr", body)
    if not hasattr(jaxpr, "eqns"):
      return None
    # A scan makes stacked parameters; what enters its body differs from step to step.
    outside = None if name == "scan" else lambda position: self.uniform(operands[position])
    inner = _Program(jaxpr, getattr(body, "consts", ()), outside)
    return inner.uniform(jaxpr.outvars[index])


def _number(value: Any) -> float | None:
  try:
    array = np.asarray(value).astype(np.float64)
  except (TypeError, ValueError):
    return None
  if array.size == 0 or not (array == array.flat[0]).all():
    return None
  return as_written(np.asarray(value).flat[0])


def as_written(number: Any) -> float:
  """A rounded constant as the decimal that it was: 0.8 in float32 is read as 0.8.

  JAX widens constants of 32 bits where it computes in 64, so a number of 64 bits
  that 32 bits hold is read like them.
  """
  dtype = np.dtype(type(number))
  exact = float(number)
  if not np.issubdtype(dtype, np.integer) and np.float32(exact) == exact:
    digits = range(1, 4 if dtype.itemsize == 2 else 7)
    rounded = np.float32 if dtype.itemsize > 2 else dtype.type
    decimals = (float(f"{exact:.{n}g}") for n in digits)
    return next((d for d in decimals if rounded(d) == number), exact)
  return exact
