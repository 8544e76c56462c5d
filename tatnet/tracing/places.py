"""Where in the user's model an equation comes from."""

import contextlib
import functools
import os
import re
import sys
from typing import Any

# Frames of these packages are not the user's.
_LIBRARIES = ("jax", "jaxlib", "haiku", "flax", "equinox", "numpy", "tatnet")


def place_of(equation: Any, outer: str = "") -> str:
  """Module path of an equation where the model names its modules, else its source line.

  Args:
    equation: of a jaxpr.
    outer: place of the call whose body holds the equation. Bodies are cached, so
      source lines in them may be those of an earlier call: the outer place stands.
  """
  path = _module_path(str(equation.source_info.name_stack))
  if outer:
    return f"{outer}/{path}" if path else outer
  return path or _source_line(equation)


def _module_path(name_stack: str) -> str:
  """The name stack without JAX's own transformations: ``vmap(block)/linear`` to ``block/linear``."""
  bare = re.sub(
    r"\b(?:vmap|jvp|transpose|jit|pmap|checkpoint|rematted_computation)\(([^()]*)\)",
    r"\1",
    name_stack,
  )
  # jnp.einsum calls itself by its subscripts.
  return "/".join(part for part in bare.split("/") if part and "->" not in part)


def calls_interpolation(equation: Any) -> bool:
  """Whether an equation is the call that `jnp.interp` makes."""
  if "interp" not in str(equation.params.get("name", "")):
    return False
  traceback = equation.source_info.traceback
  jax_root = os.path.dirname(sys.modules["jax"].__file__) + os.sep
  return any(
    frame.file_name.startswith(jax_root) and frame.function_name.rsplit(".", 1)[-1] == "interp"
    for frame in (traceback.frames if traceback is not None else ())
  )


def _source_line(equation: Any) -> str:
  traceback = equation.source_info.traceback
  for frame in traceback.frames if traceback is not None else ():
    if not _is_library(frame.file_name):
      function = frame.function_name.rsplit(".", 1)[-1]
      return f"{os.path.basename(frame.file_name)}:{frame.line_num} ({function})"
  return "unknown place"


@functools.lru_cache(maxsize=4096)
def _is_library(file_name: str) -> bool:
  if file_name.startswith("<frozen"):
    return True
  modules = [sys.modules.get(name) for name in _LIBRARIES]
  roots = [os.path.dirname(m.__file__) for m in modules if getattr(m, "__file__", None)]
  helpers = [contextlib.__file__, functools.__file__]
  return file_name in helpers or any(file_name.startswith(root + os.sep) for root in roots)
