"""Probes: identity functions whose backward pass reports what went through them.

A probe stands in front of every call of the activation. The cotangent of its
argument *is* what is observed there, and the argument is a Haiku parameter, so
readings come out of the ordinary backward pass, under `jit`, `scan` and `remat`
alike: `hk.layer_stack` stacks the probes of its layers as it does their weights.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np

from tatnet.layer.record import TransformedActivation

_NAME = "kernel_probe"
_FULL_PRECISION = jmp.get_policy("float32")
_LOCATIONS = 64
_COSINES = 8192


class Reading(NamedTuple):
  """What is observed at one call of the activation; for stacked layers with leading axes.

  Attributes:
    number: of the call, among those of one evaluation of the model.
    times: how often the probe was used; unless that is 1 all else is a sum.
    q: q values of the input, shape [inputs, locations].
    c: cosine similarities, shape [pairs, locations].
    gradient: squared norm of the gradient with respect to the input, shape [inputs].
  """

  number: Any
  times: Any
  q: Any
  c: Any
  gradient: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
  """Observes what goes into calls of an activation.

  Locations of an image are sampled evenly, to at most 64.

  Attributes:
    examples: size of the batch.
    pairs: indices of examples, shape [pairs, 2].
  """

  examples: int
  pairs: np.ndarray

  def __call__(self, number: int, x: jax.Array) -> jax.Array:
    """x itself, observed.

    Args:
      number: of the call.
      x: float array ``[examples, ..., features]``.

    Raises:
      ValueError: x has another shape.
    """
    if x.ndim < 2 or x.shape[0] != self.examples:
      raise ValueError(
        f"The activation is called on an array of shape {x.shape} in {hk.current_name()}; expected"
        f" the batch of {self.examples} examples as the first axis and the features as the last."
        " Write the model for a batch, without jax.vmap over examples."
      )
    reading = jax.eval_shape(functools.partial(self.read, number), x)
    with hk.mixed_precision.push_policy(_Probe, _FULL_PRECISION):
      return _observed(functools.partial(self.read, number), x, _Probe(name=_NAME)(reading))

  def read(self, number: int, x: jax.Array) -> Reading:
    """What there is to see on the way forward."""
    q, c = _q_and_c(x, self.pairs)
    gradient = jnp.zeros(self.examples, jnp.float32)
    return Reading(jnp.float32(number), jnp.float32(1), q, c, gradient)


class _Probe(hk.Module):
  """The argument of a probe: parameters, so that they are stacked where the layer is."""

  def __call__(self, like: Reading) -> Reading:
    def parameter(name, leaf):
      # Not of JAX: the call may stand inside jax.checkpoint.
      return hk.get_parameter(name, leaf.shape, leaf.dtype, init=np.zeros)

    return Reading(*map(parameter, Reading._fields, like))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _observed(read: Callable, x: jax.Array, probe: Reading) -> jax.Array:
  del read, probe
  return x


def _forward(read, x, probe):
  del probe
  return x, read(x)


def _backward(read, reading, gradient):
  del read
  squares = jnp.square(gradient.astype(jnp.float32))
  return gradient, reading._replace(gradient=squares.sum(tuple(range(1, squares.ndim))))


_observed.defvjp(_forward, _backward)


def split_probes(params: Mapping) -> tuple[dict, dict]:
  """Parameters of the model, and those that are probes."""
  return hk.data_structures.partition(
    lambda module, *_: not module.rpartition("/")[-1].startswith(_NAME), params
  )


def readings(probes: Mapping[str, Mapping[str, Any]]) -> list[Reading]:
  """The readings among parameters, of one probe each."""
  return [Reading(**parameters) for parameters in probes.values()]


def with_calls(forward: Callable, activation: Callable, call: Callable) -> Callable:
  """The model as a function of its inputs, with another function for its activation.

  Args:
    forward: an untransformed Haiku function of the inputs and ``activation=``.
    activation: that of the model.
    call: ``(number, x)``, called instead; the calls of each evaluation are numbered.
  """

  def model(x):
    numbers = itertools.count()
    return forward(x, activation=_stand_in(activation, lambda x: call(next(numbers), x)))

  return model


def _stand_in(activation: Callable, function: Callable) -> Callable:
  """The function, as a record with the numbers of the activation if that is one.

  Networks read weight scales from the record, and choose their initialiser by it.
  """
  if not isinstance(activation, TransformedActivation):
    return function

  class StandIn(TransformedActivation):
    def __call__(self, x):
      return function(x)

  fields = dataclasses.fields(activation)
  return StandIn(**{field.name: getattr(activation, field.name) for field in fields})


def _q_and_c(x: jax.Array, pairs: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """q values [inputs, locations] and cosines [pairs, locations]; 1 where a vector is 0."""
  x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
  wanted = min(x.shape[1], _LOCATIONS, max(_COSINES // len(pairs), 1))
  x = x[:, np.linspace(0, x.shape[1] - 1, wanted).astype(np.int32)]
  # Scaled first: squares would leave the range of 32 bits.
  largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  unit = x / jnp.where(largest > 0, largest, 1.0)
  length = jnp.sqrt(jnp.mean(jnp.square(unit), axis=-1, keepdims=True))
  q = jnp.square(largest * length)[..., 0]
  unit = unit / jnp.where(length > 0, length, 1.0)
  c = jnp.mean(unit[pairs[:, 0]] * unit[pairs[:, 1]], axis=-1)
  is_zero = (q == 0)[pairs[:, 0]] | (q == 0)[pairs[:, 1]]
  return q, jnp.where(is_zero, 1.0, jnp.clip(c, -1.0, 1.0))
