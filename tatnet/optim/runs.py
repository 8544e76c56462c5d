"""Models as functions of parameters and taps, and which of their layers K-FAC covers."""

import abc
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.optim.blocks import Block, Uncovered, blocks_of
from tatnet.optim.dummies import Tap
from tatnet.optim.layers import as_layers
from tatnet.optim.plans import finished, plan_taps
from tatnet.optim.taps import Observer

Shapes = dict[str, dict[str, tuple[int, ...]]]


@dataclasses.dataclass
class Run(abc.ABC):
  """A model, and all that it is called with besides parameters and taps.

  One subclass for each model library.

  Attributes:
    model: of the library.
    observer: of the model.
    params: in the library's own tree.
    state: what the library keeps beside parameters; None if none was given.
    key: a random key; None if none was given.
    inputs: arrays, batch first.
    kwargs: of the model.
    problems: why layers cannot have taps, by name; filled as they run.
  """

  model: Any
  observer: Observer
  params: Any
  state: Any
  key: Any
  inputs: tuple
  kwargs: Mapping[str, Any]
  problems: dict[str, str] = dataclasses.field(default_factory=dict, init=False)

  def dummies(self) -> Shapes:
    """Shapes of the dummies of all layers that may have a tap."""
    blocks, _ = blocks_of(as_layers(self.params).arrays, self.observer.dense_up_to)
    return {name: block.statistics() for name, block in blocks.items()}

  @abc.abstractmethod
  def apply(self, params: Any, taps: Mapping[str, Tap], inputs: tuple, kwargs: Mapping) -> Any:
    """Outputs and new state; layers without a tap are as they are."""

  def __call__(self, params: Any, taps: Mapping[str, Tap]) -> Any:
    return self.apply(params, taps, self.inputs, self.kwargs)

  def untapped(self, params: Any) -> Any:
    """Outputs and state of the model as it is."""
    return self(params, {})

  def taps(self, uncovered: Uncovered) -> dict[str, Tap]:
    """Taps of the layers that K-FAC covers; an error for all others unless they may pass."""
    shapes = self.dummies()
    layers = as_layers(self.params).arrays
    blocks, names = blocks_of(layers, self.observer.dense_up_to)
    found = {
      name: _missing(block, shapes.get(name), self.problems) for name, block in blocks.items()
    }
    dummies = {
      name: {key: jnp.zeros(shape, self.observer.dtype) for key, shape in shapes[name].items()}
      for name, reason in found.items()
      if reason is None
    }
    arrays, others = _split(self.kwargs)

    def apply(params, taps, inputs):
      return self.apply(params, taps, inputs[0], {**others, **inputs[1]})[0]

    plans = plan_taps(apply, self.params, dummies, (self.inputs, arrays), self.observer)
    problems = plans.problems | {n: r for n, r in self.problems.items() if n in plans.problems}
    found |= {name: f"  (the layer {reason})" for name, reason in problems.items()}
    for name, reason in found.items():
      if reason is not None:
        names += [f"{name}/{key}{reason}" for key in layers[name]]
    if names and (uncovered == "error" or not plans.taps):
      _refuse(names, uncovered)
    return plans.taps

  def factors(self, taps: Mapping[str, Tap], cotangents: Mapping[str, Tap]) -> dict[str, Any]:
    """Factors of all layers from the cotangents of their taps."""
    return {
      name: finished(tap, cotangents[name].arrays, self.observer) for name, tap in taps.items()
    }


@dataclasses.dataclass
class PlainRun(Run):
  """A function written with taps."""

  def apply(self, params, taps, inputs, kwargs):
    """Calls the function; it has no state."""
    if "key" in inspect.signature(self.model).parameters:
      kwargs = {**kwargs, "key": self.key}
    taps = {name: taps.get(name, Tap({})) for name in as_layers(params).arrays}
    return self.model(params, taps, self.observer, *inputs, **kwargs), {}


def _split(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Arguments by keyword that are arrays, and others."""

  def is_data(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)

  arrays = {name: jax.tree.map(jnp.asarray, v) for name, v in kwargs.items() if is_data(v)}
  return arrays, {name: value for name, value in kwargs.items() if name not in arrays}


def _missing(block: Block, shapes: Mapping | None, problems: Mapping[str, str]) -> str | None:
  if block.name in problems:
    return f"  (the layer {problems[block.name]})"
  if shapes is None:
    return "  (not a layer that was called)"
  if shapes != block.statistics():
    return (
      f"  (its factors have the shapes {shapes}, not {block.statistics()}: name a stack of layers so"
      " that its path contains 'layer_stack')"
    )
  return None


def _refuse(names: list[str], uncovered: Uncovered):
  listed = "\n".join(f"  {line}" for line in names)
  remedy = (
    "There is no layer left for K-FAC; use an optimiser of first order."
    if uncovered == "identity"
    else "Replace them, or pass uncovered='identity' here and to the optimiser, so that their"
    " gradients pass unchanged, or give them to another optimiser by optax.partition."
  )
  raise ValueError(
    f"K-FAC does not cover these parameters:\n{listed}\nExpected layers that it knows (dense"
    " layers and convolutions, embeddings, scales and offsets of normalisations), which see the"
    f" batch and are not differentiated inside the model. {remedy}"
  )
