"""How much tokens read themselves, in an attention module that runs."""

import math
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp


def diagonal_of(attend: Callable[[], Any], place: str) -> jax.Array | None:
  """The mean diagonal entry of a module's attention, over examples, tokens and heads.

  The module is called once more with random signs z in place of its values, and its last layer
  left out: it then returns A z, and ``z_i (A z)_i`` is ``A_ii`` on average.

  Args:
    attend: calls the module.
    place: its path; layers in it are called "value" and "output" or "linear".

  Returns:
    A number; None where the module has no such layers.
  """
  signs: list[jax.Array] = []
  last: list[jax.Array] = []

  def replace(next_f, args, kwargs, context):
    out = next_f(*args, **kwargs)
    if context.method_name != "__call__":
      return out
    name = context.module.module_name
    if name == f"{place}/value":
      signs.append(jax.random.rademacher(jax.random.key(0), out.shape, out.dtype))
      return signs[-1]
    if name in (f"{place}/output", f"{place}/linear"):
      last.append(args[0])
    return out

  with hk.intercept_methods(replace):
    attend()
  if len(signs) != 1 or len(last) != 1 or math.prod(last[0].shape) != math.prod(signs[0].shape):
    return None
  return jnp.mean(last[0].reshape(signs[0].shape) * signs[0])
