"""Base activations: by name, or any elementwise JAX function with its kinks."""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.layer import derivatives, rounding
from tatnet.layer.fields import as_float, check_name, shown


@dataclasses.dataclass(frozen=True)
class Activation:
  """An elementwise function with what the solver must know about it.

  Attributes:
    function: an elementwise JAX function that keeps shape and dtype.
    kinks: every point where its first or second derivative jumps. The function
      itself must be continuous.
    name: what to call it; by default the function's own name, or "custom_tanh" where
      that would be the library's.
    jet: value and first three derivatives at float64 points, stacked on a new
      leading axis; by default obtained from JAX.

  Raises:
    TypeError: a function that is not one of JAX, or kinks that are not numbers.
    ValueError: kinks that are not finite.

  Example:
    >>> absolute = tatnet.Activation(jnp.abs, kinks=(0.0,))
    >>> round(tatnet.local_maps(absolute).C(0.0), 6)  # 2 / pi
    0.63662
  """

  function: Callable[[jax.Array], jax.Array]
  kinks: tuple[float, ...] = ()
  name: str = ""
  jet: derivatives.JetFunction | None = dataclasses.field(default=None, repr=False, compare=False)

  @functools.cached_property
  def sides(self) -> tuple[np.ndarray, np.ndarray]:
    """Jets at the kinks from the left and from the right, each of shape [4, kinks]."""
    kinks = np.asarray(self.kinks, np.float64)
    left, right = (derivatives.one_sided(self.jet, kinks, side) for side in (-1.0, 1.0))
    return left, right

  @functools.cached_property
  def precision(self) -> float:
    """Relative rounding of its values, 1e-16 or, if it computes in 32 bits inside, 1e-7."""
    return 0.0 if is_library(self) else rounding.precision(self.jet)

  def __post_init__(self):
    if not callable(self.function):
      raise TypeError(
        f"Activation got function={self.function!r}; expected an elementwise JAX"
        " function such as jnp.tanh."
      )
    if isinstance(self.function, np.ufunc):
      raise TypeError(
        f"Activation got the NumPy function {self.function.__name__!r}; expected an"
        f" elementwise JAX function, such as jnp.{self.function.__name__}."
      )
    try:
      kinks = tuple(sorted({_as_kink(k) for k in self.kinks}))
    except (TypeError, ValueError) as error:
      raise TypeError(
        f"Activation got kinks={shown(self.kinks)}; expected a tuple of numbers, such as (0.0,)."
      ) from error
    if not all(math.isfinite(k) for k in kinks):
      raise ValueError(f"Activation got kinks={shown(self.kinks)}; expected finite numbers.")
    if not isinstance(self.name, str) or self.name:
      check_name(self.name)
    name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
    if self.jet is None:
      name = name_of_own(name)
    jet = self.jet or derivatives.of_jax_function(self.function)
    for field, value in (("kinks", kinks), ("name", name), ("jet", jet)):
      object.__setattr__(self, field, value)


def _as_kink(value) -> float:
  if isinstance(value, str | bytes | bool | np.bool_):
    raise TypeError(f"a {type(value).__name__} is no number")
  return as_float(value)


def _bentid(x):
  return (jnp.sqrt(jnp.square(x) + 1) - 1) / 2 + x


def leaky_relu(negative_slope: float) -> Activation:
  """The leaky ReLU of a given slope on the negative side."""
  return Activation(
    functools.partial(jax.nn.leaky_relu, negative_slope=negative_slope),
    kinks=(0.0,),
    name="leaky_relu",
    jet=functools.partial(derivatives.leaky_relu, negative_slope=negative_slope),
  )


DEFAULT_NEGATIVE_SLOPE = 0.01

_TABLE = {
  # name: (function, jet, kinks)
  "tanh": (jnp.tanh, derivatives.tanh, ()),
  "sigmoid": (jax.nn.sigmoid, derivatives.sigmoid, ()),
  "erf": (jax.scipy.special.erf, derivatives.erf, ()),
  "relu": (jax.nn.relu, derivatives.relu, (0.0,)),
  "softplus": (jax.nn.softplus, derivatives.softplus, ()),
  "selu": (jax.nn.selu, derivatives.selu, (0.0,)),
  "elu": (jax.nn.elu, derivatives.elu, (0.0,)),
  "swish": (jax.nn.silu, derivatives.swish, ()),
  "silu": (jax.nn.silu, derivatives.swish, ()),
  "gelu": (functools.partial(jax.nn.gelu, approximate=True), derivatives.gelu, ()),
  "gelu_exact": (
    functools.partial(jax.nn.gelu, approximate=False),
    derivatives.gelu_exact,
    (),
  ),
  "bentid": (_bentid, derivatives.bentid, ()),
  "atan": (jnp.arctan, derivatives.atan, ()),
  "asinh": (jnp.arcsinh, derivatives.asinh, ()),
  "square": (jnp.square, derivatives.square, ()),
  "softsign": (jax.nn.soft_sign, derivatives.softsign, (0.0,)),
  "sin": (jnp.sin, derivatives.sin, ()),
  "cos": (jnp.cos, derivatives.cos, ()),
  "mish": (jax.nn.mish, derivatives.mish, ()),
  "hard_tanh": (jax.nn.hard_tanh, derivatives.hard_tanh, (-1.0, 1.0)),
  "relu6": (jax.nn.relu6, derivatives.relu6, (0.0, 6.0)),
}

ACTIVATIONS: Mapping[str, Activation] = {
  name: Activation(function, kinks, name, jet) for name, (function, jet, kinks) in _TABLE.items()
} | {"leaky_relu": leaky_relu(DEFAULT_NEGATIVE_SLOPE)}


def activation_names() -> tuple[str, ...]:
  """The names that `transform_activation` and `local_maps` know, sorted.

  Example:
    >>> "tanh" in tatnet.activation_names()
    True
  """
  return tuple(sorted(ACTIVATIONS))


def is_library(activation: Activation) -> bool:
  """Whether it is the one that its name stands for."""
  return ACTIVATIONS.get(activation.name) is activation


def name_of_own(name: str) -> str:
  """A name for a function of the user's: one of the library's stands for its own function."""
  return f"custom_{name}" if name in ACTIVATIONS else name


def as_activation(activation: str | Activation | Callable) -> Activation:
  """Looks up a name, or wraps a function without kinks."""
  if isinstance(activation, Activation):
    return activation
  if isinstance(activation, str):
    if activation in ACTIVATIONS:
      return ACTIVATIONS[activation]
    close = difflib.get_close_matches(activation[:100].lower(), ACTIVATIONS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
      f"Unknown activation {shown(activation)}.{hint} Known names:"
      f" {', '.join(activation_names())}. Any elementwise JAX function works as well:"
      " pass the function itself, or tatnet.Activation(function, kinks=(...)) if its"
      " slope jumps somewhere."
    )
  if callable(activation):
    return Activation(activation)
  raise TypeError(
    f"activation is a {type(activation).__name__}; expected a name, an elementwise JAX"
    " function or a tatnet.Activation."
  )
