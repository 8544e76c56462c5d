"""Elementwise functions as the model wrote them: small trees of JAX primitives.

An expression is a function of one variable, the signal entering it. It is
hashable by structure, so equal layers have equal activations, and callable, so
the core can treat it like any user's function.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax import lax

from tatnet.layer import quadrature
from tatnet.layer.activations import Activation
from tatnet.layer.recognition import as_line as as_line
from tatnet.layer.recognition import as_named, as_rectifier, evaluate
from tatnet.layer.record import TransformedActivation, as_transformed

# Elementwise primitives, all of them public functions of jax.lax.
_PRIMITIVES = {
  name: getattr(lax, function)
  for name, function in {
    **{n: n for n in (
      "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
      "clamp", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2",
      "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
      "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "pow", "rem", "round",
      "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh",
    )},
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not",
    "add_any": "add",
  }.items()
}  # fmt: skip
ELEMENTWISE = frozenset(_PRIMITIVES)
_PRIMITIVES["interp"] = lambda x, xp, fp: jax.numpy.interp(x, np.array(xp), np.array(fp))
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_LOGIC = ("and", "or", "xor", "not")
_STEPS = ("ceil", "floor", "rem", "round")


@dataclasses.dataclass(frozen=True)
class Expression:
  """A primitive applied to expressions, constants and the variable.

  Attributes:
    primitive: name of the primitive; "variable" for the variable itself.
    arguments: expressions or floats.
    options: the parameters that the primitive needs, as sorted pairs.
  """

  primitive: str
  arguments: tuple["Expression | float", ...] = ()
  options: tuple[tuple[str, Any], ...] = ()

  @property
  def is_truth(self) -> bool:
    """Whether its values are true or false."""
    return self.primitive in _COMPARISONS or self.primitive in _LOGIC

  def __call__(self, x: jax.Array) -> jax.Array:
    """Evaluates the expression on a float array; truth values become 0 and 1."""
    if self.primitive == "variable":
      return x
    arguments = [
      a(x) if isinstance(a, Expression) else jax.numpy.full_like(x, a) for a in self.arguments
    ]
    if self.primitive in _LOGIC:
      arguments = [a != 0 for a in arguments]
    elif self.primitive == "select_n":
      arguments[0] = arguments[0] != 0
    return _PRIMITIVES[self.primitive](*arguments, **dict(self.options)).astype(x.dtype)

  def of(self, inner: "Expression") -> "Expression":
    """This expression with another in place of its variable."""
    if self.primitive == "variable":
      return inner
    arguments = tuple(a.of(inner) if isinstance(a, Expression) else a for a in self.arguments)
    return dataclasses.replace(self, arguments=arguments)


VARIABLE = Expression("variable")


def apply(
  primitive: str, arguments: tuple[Expression | float, ...], parameters: dict
) -> Expression:
  """The primitive of an equation, applied to expressions and constants."""
  needed = {"integer_pow": ("y",), "round": ("rounding_method",), "interp": ("xp", "fp")}
  return Expression(
    primitive, arguments, tuple((key, parameters[key]) for key in needed.get(primitive, ()))
  )


def scaled(expression: Expression, factor: float) -> Expression:
  """factor * expression."""
  return expression if factor == 1 else Expression("mul", (expression, factor))


def without_factor(expression: Expression) -> tuple[Expression, float]:
  """An expression without the constant factors around it, and their product."""
  factor = 1.0
  while True:
    match expression.primitive, expression.arguments:
      case "mul", (Expression() as inner, float() as number):
        factor *= number
      case "mul", (float() as number, Expression() as inner):
        factor *= number
      case "div", (Expression() as inner, float() as number) if number:
        factor /= number
      case "neg", (Expression() as inner,):
        factor = -factor
      case _:
        return expression, factor
    expression = inner


@functools.lru_cache(maxsize=1024)
def as_unit_layer(expression: Expression, scale: float) -> tuple[TransformedActivation, float]:
  """A nonlinear expression of ``scale * unit-q signal`` as a layer of unit q.

  Returns:
    The activation, which maps a signal of q = 1 to one of q = 1, and the factor
    by which it must be multiplied to give the expression's values.
  """
  radius = quadrature.RADIUS * abs(scale)
  slopes = as_rectifier(expression, radius)
  if slopes is not None and slopes.right:
    right, left = slopes
    gain = math.sqrt((right**2 + left**2) / 2)
    return _rectifier(left / right, right / gain), gain * scale
  named = as_named(expression, radius)
  if named is None:
    name = "elementwise"
    kinks = find_kinks(expression, radius)
    base = TransformedActivation(name, base=Activation(expression, kinks, name))
  else:
    base = as_transformed(named)
  if scale != 1:
    base = dataclasses.replace(base, input_scale=scale)
  gain = math.sqrt(base.maps.Q(1.0))
  if not gain:
    raise ValueError(
      f"it is 0 wherever a signal of q = {scale**2:.3g} lies, so that nothing of the signal is left"
    )
  return dataclasses.replace(base, output_scale=1 / gain), gain


def _rectifier(negative_slope: float, gain: float) -> TransformedActivation:
  if negative_slope == 0:
    return TransformedActivation("relu", output_scale=gain)
  return TransformedActivation("leaky_relu", negative_slope=negative_slope, output_scale=gain)


@functools.lru_cache(maxsize=1024)
def find_kinks(expression: Expression, radius: float = quadrature.RADIUS) -> tuple[float, ...]:
  """Points within the radius at which a max, a comparison or the like changes sides."""
  grid = np.linspace(-radius, radius, 4002)
  kinks: set[float] = set()
  for switch in dict.fromkeys(_switches(expression)):
    values = evaluate(switch, grid)
    for i in np.flatnonzero(values[1:] * values[:-1] < 0):
      low, high = grid[i], grid[i + 1]
      side = np.sign(values[i])
      for _ in range(60):
        middle = (low + high) / 2
        low, high = (
          (middle, high) if np.sign(evaluate(switch, middle[None])[0]) == side else (low, middle)
        )
      kinks.add(round((low + high) / 2, 12) + 0.0)
  return tuple(sorted(kinks))


@functools.lru_cache(maxsize=1024)
def jumps(expression: Expression, radius: float = quadrature.RADIUS) -> bool:
  """Whether the function itself jumps within the radius, not only its slope."""
  if any(part.primitive in _STEPS for part in _parts(expression)):
    return True
  kinks = np.array(find_kinks(expression, radius))
  step = 1e-9 * (1 + np.abs(kinks))
  left, right = evaluate(expression, kinks - step), evaluate(expression, kinks + step)
  return bool((np.abs(right - left) > 1e-6 * (1 + np.abs(left))).any())


def _parts(expression: Expression):
  yield expression
  for argument in expression.arguments:
    if isinstance(argument, Expression):
      yield from _parts(argument)


def _switches(expression: Expression):
  """Expressions whose zeros are where a piecewise primitive changes its piece."""
  for part in _parts(expression):
    arguments = part.arguments
    if part.primitive in ("max", "min", *_COMPARISONS):
      yield Expression("sub", arguments)
    elif part.primitive in ("abs", "sign") and isinstance(arguments[0], Expression):
      yield arguments[0]
    elif part.primitive == "interp":
      yield from (Expression("sub", (arguments[0], knot)) for knot in dict(part.options)["xp"])
    elif part.primitive == "clamp":
      yield Expression("sub", arguments[:2])
      yield Expression("sub", arguments[1:])
