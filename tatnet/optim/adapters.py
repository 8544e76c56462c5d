"""Which file knows the library of a model; a library is imported only where it is used."""

import importlib
import inspect
import sys
from typing import Any

from tatnet.optim.runs import PlainRun, Run

# A model is of a library that has been imported. Modules of linen have an `init` and an
# `apply` as Haiku's models have, and come first.
_ADAPTERS = {
  "flax.linen": "tatnet.optim.linen_taps",
  "flax.nnx": "tatnet.optim.nnx_taps",
  "equinox": "tatnet.optim.equinox_taps",
}
_LIBRARIES = ("haiku", "flax", "equinox")


def run_type(network: Any) -> type[Run]:
  """How a model is run with taps.

  Args:
    network: of any library, or a function written with taps.

  Raises:
    TypeError: none of these.
  """
  for library, name in _ADAPTERS.items():
    if library in sys.modules:
      adapter = importlib.import_module(name)
      if adapter.is_model(network):
        return adapter.MODEL_RUN
  if callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None)):
    return importlib.import_module("tatnet.optim.haiku_taps").HaikuRun
  library = (getattr(network, "__module__", None) or "").split(".")[0]
  if not callable(network) or library in _LIBRARIES or not _takes_taps(network):
    raise TypeError(
      f"value_grad_and_factors got the network {network!r}; expected what hk.transform returned, a"
      " module of Flax or Equinox (the model itself, not its apply), or a function apply(params,"
      " taps, observer, inputs)."
    )
  return PlainRun


def _takes_taps(function: Any) -> bool:
  """Whether it has arguments for parameters, taps, an observer and inputs."""
  kinds = [p.kind for p in inspect.signature(function).parameters.values()]
  by_place = [
    k
    for k in kinds
    if k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  ]
  return len(by_place) >= 4 or inspect.Parameter.VAR_POSITIONAL in kinds
