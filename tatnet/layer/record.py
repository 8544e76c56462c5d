"""`TransformedActivation`: what the solver returns, and a function to call."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.layer import kernels
from tatnet.layer.activations import (
  ACTIVATIONS,
  DEFAULT_NEGATIVE_SLOPE,
  Activation,
  as_activation,
  is_library,
  leaky_relu,
  name_of_own,
)
from tatnet.layer.fields import LARGEST, as_finite, check_name, shown
from tatnet.layer.maps import LocalMaps, LocalValues
from tatnet.layer.recognition import Rectifier, as_rectifier, at_all_scales
from tatnet.layer.validation import check_activation, check_function


@dataclasses.dataclass(frozen=True, repr=False)
class TransformedActivation:
  """``output_scale * (phi(input_scale * x + input_shift) + output_shift)``.

  A frozen, hashable record that is called like a function, on arrays of any
  float dtype. A field that the transformation does not use is None.

  Attributes:
    name: the base activation phi.
    negative_slope: slope of a leaky ReLU for negative inputs; 0.01 where none is given.
    input_scale: alpha in the DKS paper.
    input_shift: beta.
    output_shift: delta.
    output_scale: gamma.
    weight_scale: factor on the standard deviation of the weights (EOC only):
      give it to `ScaledUniformOrthogonal(scale=...)`.
    bias_scale: standard deviation of the biases (EOC only).
    operating_q: the q value at which the network holds its preactivations; None
      means 1.
    base: the function itself where phi is not one of the named activations.

  Raises:
    ValueError: an unknown name, or numbers that make no activation.
    TypeError: a field of another kind.

  Example:
    >>> act = tatnet.transform_activation("leaky_relu", tatnet.chain(49), tatnet.TAT(0.9))
    >>> round(act.negative_slope, 6), round(act.output_scale, 6)
    (0.425907, 1.301119)
    >>> act(jnp.array([1.0, -1.0], jnp.bfloat16)).dtype
    dtype(bfloat16)
    >>> tatnet.TransformedActivation.from_dict(act.to_dict()) == act
    True
  """

  name: str
  negative_slope: float | None = None
  input_scale: float | None = None
  input_shift: float | None = None
  output_shift: float | None = None
  output_scale: float | None = None
  weight_scale: float | None = None
  bias_scale: float | None = None
  operating_q: float | None = None
  base: Activation | None = None

  def __post_init__(self):
    check_name(self.name)
    if self.base is not None and not isinstance(self.base, Activation):
      raise TypeError(
        f"base={shown(self.base)}: expected a tatnet.Activation, or None for a named activation."
      )
    if self.base is not None and is_library(self.base):
      object.__setattr__(self, "base", None)
    if self.base is None:
      as_activation(self.name)  # raises for a name that is not known
    else:
      object.__setattr__(self, "name", name_of_own(self.name))
    if self.name == "leaky_relu" and self.negative_slope is None:
      object.__setattr__(self, "negative_slope", DEFAULT_NEGATIVE_SLOPE)
    for field, value in self._numbers():
      object.__setattr__(self, field, as_finite(field, value))
    for field in ("weight_scale", "operating_q"):
      value = getattr(self, field)
      if value is not None and value < 1 / LARGEST:
        least = f" (at least {1 / LARGEST:g})" if value > 0 else ""
        raise ValueError(f"{field}={value}: expected a number above 0{least} or None.")
    if self.bias_scale is not None and self.bias_scale < 0:
      raise ValueError(f"bias_scale={self.bias_scale}: expected a number of at least 0 or None.")
    if self.input_scale is not None and abs(self.input_scale) < 1 / LARGEST:
      raise ValueError(
        f"input_scale={self.input_scale:g} makes the activation constant; expected a non-zero number."
      )
    if self.negative_slope is not None and self.name != "leaky_relu":
      raise ValueError(
        f"negative_slope={self.negative_slope} with {self.name!r}: only 'leaky_relu' has one."
      )

  def __getstate__(self):
    # What is derived is not saved: it holds functions that cannot be pickled.
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

  def _numbers(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name not in ("name", "base") and value is not None:
        yield field.name, value

  @functools.cached_property
  def activation(self) -> Activation:
    """The base activation phi."""
    if self.base is not None:
      return self.base
    if self.negative_slope is not None:
      return leaky_relu(self.negative_slope)
    return as_activation(self.name)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies the activation elementwise.

    Args:
      x: array of any shape and float dtype.

    Returns:
      An array of the same shape and dtype.

    Raises:
      TypeError: x is not a float array.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(
        f"{self.name} got an array of dtype {x.dtype}; expected a float array. Convert"
        " it with x.astype(jnp.float32)."
      )
    # In 16 bits output_scale itself is off by up to 0.4 %, which fifty layers
    # compound, and output_shift cancels nearly all of phi. XLA fuses the casts.
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if self.input_scale is not None:
      y = y * self.input_scale
    if self.input_shift is not None:
      y = y + self.input_shift
    y = self.activation.function(y)
    if self.output_shift is not None:
      y = y + self.output_shift
    if self.output_scale is not None:
      y = y * self.output_scale
    return y.astype(x.dtype)

  def jet(self, x: np.ndarray) -> np.ndarray:
    """Value and first three derivatives at float64 points, on a new leading axis."""
    scale = 1.0 if self.input_scale is None else self.input_scale
    rows = np.array(self.activation.jet(scale * x + (self.input_shift or 0.0)))
    rows[0] += self.output_shift or 0.0
    gain = 1.0 if self.output_scale is None else self.output_scale
    powers = gain * scale ** np.arange(4.0)
    return rows * powers.reshape(-1, *[1] * np.ndim(x))

  @functools.cached_property
  def maps(self) -> LocalMaps:
    """The local Q and C maps; with EOC those of the layer, weights and biases included."""
    shift, scale = self.input_shift or 0.0, self.input_scale or 1.0
    kinks = tuple(sorted((k - shift) / scale for k in self.activation.kinks))
    return LocalMaps(
      jet=self.jet,
      kinks=kinks,
      kernel=self._closed_form()
      or kernels.QuadratureKernel(self.jet, kinks, self.activation.precision, self._check),
      weight_variance=1.0 if self.weight_scale is None else self.weight_scale**2,
      bias_variance=(self.bias_scale or 0.0) ** 2,
      operating_q=1.0 if self.operating_q is None else self.operating_q,
    )

  def _check(self, radius: float) -> None:
    """Raises for what is wrong with phi within a radius of this function's argument."""
    check_activation(
      self.activation, abs(self.input_scale or 1.0) * radius + abs(self.input_shift or 0.0)
    )

  def _closed_form(self) -> kernels.Kernel | None:
    gain = 1.0 if self.output_scale is None else self.output_scale
    scale, phase = self.input_scale or 1.0, self.input_shift or 0.0
    if self.base is not None:
      return None
    if self.name in ("sin", "cos"):
      phase += math.pi / 2 if self.name == "cos" else 0.0
      return kernels.SineKernel(gain, scale, phase, self.output_shift or 0.0)
    if phase or self.output_shift:
      return None
    if self.name == "erf":
      return kernels.ErfKernel(gain, scale)
    if self.name in ("relu", "leaky_relu"):  # a negative scale mirrors it, and its maps with it
      return kernels.RectifierKernel(gain * scale, self.negative_slope or 0.0)
    return None

  @property
  def local(self) -> LocalValues:
    """The local map values where the network operates (q, q_slope, c0, c_slope, ...)."""
    return self.maps.values

  def to_dict(self) -> dict[str, Any]:
    """The name and the numbers in use, ready for JSON."""
    return {"name": self.name, **dict(self._numbers())}

  @classmethod
  def from_dict(
    cls, data: Mapping[str, Any], base: Activation | Callable | None = None
  ) -> "TransformedActivation":
    """Rebuilds what `to_dict` wrote.

    Args:
      data: the dictionary.
      base: the function, where the activation is not one of the named ones:
        functions do not survive JSON.

    Raises:
      ValueError: unknown fields, numbers that make no activation, or an unnamed
        activation without its `base`.
      TypeError: something that is no dictionary, or a field of another kind.
    """
    if not isinstance(data, Mapping):
      raise TypeError(f"from_dict got {shown(data)}; expected the dictionary that to_dict made.")
    known = {field.name for field in dataclasses.fields(cls)} - {"base"}
    if "name" not in data or set(data) - known:
      raise ValueError(
        f"from_dict got the fields {shown(sorted(data, key=str))}; expected 'name' and any of"
        f" {sorted(known - {'name'})}."
      )
    check_name(data["name"])
    if base is None and data["name"] not in ACTIVATIONS:
      raise ValueError(
        f"from_dict got the name {shown(data['name'])}, which is not one of the named activations;"
        " expected its function as well: from_dict(data, base=function)."
      )
    return cls(**data, base=None if base is None else as_activation(base))

  def __repr__(self):
    numbers = "".join(f", {field}={value!r}" for field, value in self._numbers())
    return f"TransformedActivation({self.name!r}{numbers})"


@functools.lru_cache(maxsize=256)
def as_transformed(
  activation: "str | Activation | Callable | TransformedActivation",
) -> TransformedActivation:
  """Any way of naming an activation, as a record; untransformed unless it was already."""
  if isinstance(activation, TransformedActivation):
    return activation
  base = as_activation(activation)
  if not is_library(base):
    check_function(base)
    slopes = at_all_scales(as_rectifier, base.function)
    if slopes is not None:
      check_activation(dataclasses.replace(base, kinks=(0.0,)))
      return _rectifier(slopes)
  check_activation(base)
  return TransformedActivation(base.name, base=base)


def _rectifier(slopes: Rectifier) -> TransformedActivation:
  """A rectifier in any spelling as the library's, with a negative slope of at most 1."""
  right, left = slopes
  mirror = abs(left) > abs(right)
  gain, slope = (-left, right / left) if mirror else (right, left / right)
  return TransformedActivation(
    "leaky_relu" if slope else "relu",
    negative_slope=slope or None,
    input_scale=-1.0 if mirror else None,
    output_scale=None if gain == 1 else gain,
  )


def local_maps(activation: str | Activation | Callable | TransformedActivation) -> LocalMaps:
  """Q and C maps of an activation, with their slopes and curvatures.

  Args:
    activation: a name, an elementwise JAX function, an `Activation`, or a
      `TransformedActivation`.

  Returns:
    A `tatnet.layer.maps.LocalMaps`: methods ``Q(q)``, ``q_slope(q)``, ``C(c, q1, q2)``,
    ``c_slope(c, q1, q2)`` and ``c_curvature(c, q1, q2)``, in float64, on floats
    or arrays.

  Raises:
    ValueError: an unknown name, or a function that is not elementwise, finite and
      continuous with its kinks declared.

  Reference:
    Martens et al., Deep Kernel Shaping (arXiv 2110.01765), Section 4.

  Example:
    >>> maps = tatnet.local_maps("erf")
    >>> round(maps.C(1.0), 6), round(maps.C(0.0), 6)
    (1.0, 0.0)
    >>> round(maps.Q(1.0), 6)  # (2 / pi) arcsin(2 / 3)
    0.464559
  """
  return as_transformed(activation).maps
