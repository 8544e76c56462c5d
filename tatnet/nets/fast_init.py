"""Initialisation that compiles fast: the random numbers of all layers are drawn at once."""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp


def fast_init(forward: Callable) -> Callable[..., tuple[hk.MutableParams, hk.MutableState]]:
  """An `init` that compiles in a fraction of the time.

  Compiling a random number generator for every single layer is most of the time
  that a deep network takes to initialise under `jax.jit`. Here one generator draws
  for all layers whose initialiser is a function of normal numbers, which is to say
  has a method `from_normals`: `tatnet.ScaledUniformOrthogonal`, `HeNormal`,
  `SmallNormal`. The others, and stacked layers, are drawn by Haiku. The law of the
  parameters is the same; their values for a given key are others than Haiku draws.

  Args:
    forward: an untransformed Haiku function.

  Returns:
    A function ``(key, *args, **kwargs) -> (params, state)`` like the `init` of
    ``hk.transform_with_state(forward)``. Call it under `jax.jit`, which leaves out
    the forward pass.

  Example:
    >>> w_init = tatnet.ScaledUniformOrthogonal()
    >>> init = tatnet.nets.fast_init(lambda x: hk.nets.MLP([64] * 50, w_init=w_init)(x))
    >>> params, _ = jax.jit(init)(jax.random.key(0), jnp.ones([8, 64]))
    >>> len(params)
    50
  """

  def init(key: jax.Array, *args, **kwargs):
    groups: dict[Any, dict[str, jax.ShapeDtypeStruct]] = collections.defaultdict(dict)

    def record(next_creator, shape, dtype, init, context):
      # Stacked layers are lifted: they share one compiled body as it is.
      is_drawn = hasattr(init, "from_normals") and context.lifted_prefix_name is None

      def recorded(shape, dtype):
        if not is_drawn:
          return init(shape, dtype)
        groups[init][context.full_name] = jax.ShapeDtypeStruct(shape, dtype)
        return jnp.zeros(shape, dtype)  # in this pass only shapes count

      # Through the other creators: a mixed precision policy is one, and sets the dtype.
      return next_creator(shape, dtype, recorded)

    # A function without arguments, since flags among them must stay flags.
    jax.eval_shape(lambda: _init_with(record, forward)(key, *args, **kwargs))
    key, normals_key = jax.random.split(key)
    drawn = _draw(normals_key, groups)

    def place(next_creator, shape, dtype, init, context):
      value = drawn.get(context.full_name)
      return next_creator(shape, dtype, init if value is None else lambda *_: value)

    return _init_with(place, forward)(key, *args, **kwargs)

  return init


def _draw(
  key: jax.Array, groups: Mapping[Any, Mapping[str, jax.ShapeDtypeStruct]]
) -> dict[str, jax.Array]:
  """All weights by name, of one draw of numbers; groups are weights by their initialisers."""
  sizes = [init.num_normals(list(own.values())) for init, own in groups.items()]
  normals = jax.random.normal(key, (sum(sizes),))
  # Else the compiler copies the generator into everything that reads a slice.
  normals = jax.lax.optimization_barrier(normals)
  drawn = {}
  for (init, own), size in zip(groups.items(), sizes, strict=True):
    weights = init.from_normals(normals[:size], list(own.values()))
    drawn |= dict(zip(own, weights, strict=True))
    normals = normals[size:]
  return drawn


def _init_with(creator: Callable, forward: Callable) -> Callable:
  """`init` of the function, with parameters made by the creator."""

  def with_creator(*args, **kwargs):
    with hk.custom_creator(creator):
      return forward(*args, **kwargs)

  return hk.transform_with_state(with_creator).init
