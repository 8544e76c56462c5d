"""Models as functions of parameters and taps, and which of their layers K-FAC covers."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tatnet.optim import haiku_taps
from tatnet.optim.blocks import Block, Uncovered, blocks_of
from tatnet.optim.layers import as_layers
from tatnet.optim.taps import Observer

Taps = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass
class _Run:
  """A model, and all that it is called with besides parameters and taps."""

  model: Any
  observer: Observer
  params: Any
  state: Any
  key: Any
  inputs: tuple
  kwargs: Mapping


@dataclasses.dataclass
class HaikuRun(_Run):
  """A Haiku model as a function of parameters and taps."""

  def __post_init__(self):
    self._is_stateless = isinstance(self.model, hk.Transformed)
    if self.state is None and not self._is_stateless:
      self.state = {}
    self._tapped = haiku_taps.TappedModel(self.observer, self.state or {})
    is_haiku = isinstance(self.model, hk.Transformed | hk.TransformedWithState)
    names = inspect.signature(self.model.apply).parameters if is_haiku else ("rng",)
    self._takes_key = "rng" in names  # hk.without_apply_rng takes it away

  def taps(self, uncovered: Uncovered) -> tuple[Taps, list[str]]:
    """Dummies of the layers, and which layers are covered."""
    key = jax.random.key(0)

    def init():
      made = self.model.init(key, *self.inputs, **self.kwargs)
      return made if self._is_stateless else made[0]

    with self._tapped.installed():
      shapes = jax.eval_shape(init)
    _, taps = haiku_taps.split_taps(shapes)
    covered = _covered(self.params, taps, self._tapped.problems, uncovered)
    return jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), taps), covered

  def __call__(self, params, taps):
    with self._tapped.installed():
      return self.untapped(haiku_taps.merged(params, taps))

  def untapped(self, params):
    """Outputs and state of the model as it is."""
    state = () if self._is_stateless else (self.state,)
    key = (self.key,) if self._takes_key else ()
    result = self.model.apply(params, *state, *key, *self.inputs, **self.kwargs)
    return (result, {}) if self._is_stateless else result


@dataclasses.dataclass
class PlainRun(_Run):
  """A function written with taps, as a function of parameters and taps."""

  def taps(self, uncovered: Uncovered) -> tuple[Taps, list[str]]:
    """Dummies of the layers, and which layers are covered."""
    blocks, _ = blocks_of(as_layers(self.params).arrays)
    shapes = {
      name: {
        key: jax.ShapeDtypeStruct(shape, self.observer.dtype)
        for key, shape in block.statistics().items()
      }
      for name, block in blocks.items()
    }
    taps = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), shapes)
    problems = dict.fromkeys(self._unused(taps), "does not use its taps")
    return taps, _covered(self.params, shapes, problems, uncovered)

  def _unused(self, taps: Taps) -> list[str]:
    """Layers with taps that the function never reads."""
    jaxpr = jax.make_jaxpr(lambda taps: self(self.params, taps)[0])(taps).jaxpr
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars}
    paths = [path for path, _ in jax.tree.leaves_with_path(taps)]
    names = [
      path[0].key for path, var in zip(paths, jaxpr.invars, strict=True) if id(var) not in read
    ]
    return sorted(set(names))

  def __call__(self, params, taps):
    kwargs = dict(self.kwargs)
    if "key" in inspect.signature(self.model).parameters:
      kwargs["key"] = self.key
    return self.model(params, taps, self.observer, *self.inputs, **kwargs), {}

  def untapped(self, params):
    """Outputs and state of the function, whose taps observe nothing."""
    blocks, _ = blocks_of(params)
    return self(params, {name: dict.fromkeys(block.statistics()) for name, block in blocks.items()})


def _covered(
  params, taps: Mapping[str, Mapping], problems: Mapping[str, str], uncovered: Uncovered
) -> list[str]:
  """Names of the layers that K-FAC covers; an error for all others unless they may pass."""
  layers = as_layers(params).arrays
  blocks, names = blocks_of(layers)
  found = list(names)
  covered = []
  for name, block in blocks.items():
    reason = _reason(block, taps.get(name), problems)
    if reason is None:
      covered.append(name)
    else:
      found.extend(f"{name}/{key}{reason}" for key in layers[name])
  if found and uncovered == "error":
    listed = "\n".join(f"  {line}" for line in found)
    raise ValueError(
      f"K-FAC does not cover these parameters:\n{listed}\nExpected layers that it knows (dense"
      " layers and convolutions that are called once, embeddings, scales and offsets of"
      " normalisations). Replace them, or pass uncovered='identity' here and to the optimiser, so"
      " that their gradients pass unchanged."
    )
  return covered


def _reason(block: Block, taps: Mapping | None, problems: Mapping[str, str]) -> str | None:
  if block.name in problems:
    return f"  (the layer {problems[block.name]})"
  if taps is None:
    return "  (not a layer that was called)"
  expected = block.statistics()
  shapes = {key: tuple(tap.shape) for key, tap in taps.items()}
  if shapes != expected:
    return (
      f"  (its factors have the shapes {shapes}, not {expected}: name a stack of layers so that its"
      " path contains 'layer_stack')"
    )
  return None
