"""Parameters by name, masks, and norms layer by layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Mask = Any | Callable[[Any], Any]


def named_leaves(tree: Any) -> dict[str, Any]:
  """Leaves by their path, ``{"module/name": leaf}``."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def named_flags(mask: Mask | None, params: Any) -> dict[str, bool]:
  """Which parameters a mask selects, by name.

  Raises:
    ValueError: a mask that is not like the parameters, or selects none.
    TypeError: a mask whose leaves are not bools.
  """
  names = list(named_leaves(params))
  if mask is None:
    return dict.fromkeys(names, True)
  flags = named_leaves(mask(params) if callable(mask) else mask)
  odd = sorted(set(flags) ^ set(names))
  if odd:
    raise ValueError(
      f"The mask and the parameters differ in {_listed(odd)}; expected a tree of bools of the"
      " structure of the parameters, such as scale_invariant(loss, params) returns, or a function"
      " of the parameters that returns one."
    )
  for name, flag in flags.items():
    if not isinstance(flag, bool | np.bool_):
      raise TypeError(
        f"The mask has {flag!r} for {name!r}; expected True or False. Masks are fixed while a"
        " program is compiled: make them outside of jax.jit."
      )
  if not any(flags.values()):
    raise ValueError(
      f"The mask selects none of {_listed(names)}; expected at least one scale-invariant parameter."
      " In a network without normalisation layers there are none, and effective learning rates say"
      " nothing about it."
    )
  return {name: bool(flags[name]) for name in names}


def selected(tree: Any, flags: dict[str, bool], what: str) -> dict[str, jax.Array]:
  """Leaves that are selected, by name; raises ValueError if the tree lacks some."""
  leaves = named_leaves(tree)
  lacking = [name for name, flag in flags.items() if flag and name not in leaves]
  if lacking:
    raise ValueError(
      f"The {what} lack {_listed(lacking)}; expected a tree like the parameters. Take the gradients"
      " with respect to these parameters."
    )
  return {name: jnp.asarray(leaves[name]) for name, flag in flags.items() if flag}


def layer_axes(name: str, array: Any) -> tuple[int, ...]:
  """Axes of one layer: all, but for the leading one of layers that Haiku has stacked."""
  return tuple(range(1 if "layer_stack" in name else 0, jnp.ndim(array)))


def layer_norm(name: str, array: jax.Array, keepdims: bool = False) -> jax.Array:
  """Euclidean norm of each layer, in at least float32, without overflow of the squares."""
  array = jnp.abs(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
  axes = layer_axes(name, array)
  largest = jnp.max(array, axes, keepdims=True)
  unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
  norm = unit * jnp.sqrt(jnp.sum(jnp.square(array / unit), axes, keepdims=True))
  return norm if keepdims else jnp.squeeze(norm, axes)


def mapped(function: Callable[..., jax.Array], flags: dict[str, bool], tree: Any, *rest: Any):
  """`function` of name and leaves where the mask selects, other leaves of `tree` as they are."""

  def one(path, leaf, *others):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return function(name, leaf, *others) if flags[name] else leaf

  return jax.tree_util.tree_map_with_path(one, tree, *rest)


def need_params(params: Any, name: str) -> None:
  """Raises ValueError if an update came without parameters."""
  if params is None:
    raise ValueError(
      f"{name} got no parameters; effective learning rates are norms of gradients over norms of"
      " weights. Call optimizer.update(gradients, state, params)."
    )


def _listed(names: list[str]) -> str:
  shown = ", ".join(map(repr, names[:5]))
  return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
