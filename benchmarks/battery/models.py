"""What a model of the battery is, and how one is made from each library's kind of program."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import tatnet
from battery.initial import gaussian
from battery.signals import Inputs


def unit(name: str, **fields: float) -> tatnet.TransformedActivation:
  """An activation of unit q, not otherwise shaped: its maps are far from the identity."""
  plain = tatnet.TransformedActivation(name, **fields)
  return dataclasses.replace(plain, output_scale=1 / math.sqrt(plain.local.q))


RELU = unit("relu")  # C(0) = 0.318
TANH = unit("tanh")  # C(0) = 0
SOFTPLUS = unit("softplus")  # C(0) = 0.8


@dataclasses.dataclass(frozen=True)
class Model:
  """One model: how to trace it, how to run it, and what may be said of it.

  Attributes:
    name: short, unique.
    kind: of architecture or of rule.
    library: in which it is written.
    trace: () -> topology.
    start: (key) -> parameters, weights with variance 1 / inputs among them.
    apply: (parameters, key, activation) -> outputs.
    inputs: examples.
    activation: that of the layers to be solved for.
    finding: regular expression for findings and warnings that are right for it;
      empty if none is: then the maps must agree.
    at: where c is measured: "output" (the first of several), or "activation" (the
      last of the marked layers).
    batched: whether the activation sees the whole batch, not one example.
    q: expected q of what is measured at the output; None if it is not looked at.
  """

  name: str
  kind: str
  library: str
  trace: Callable[[], tatnet.Topology]
  start: Callable[[jax.Array], Any]
  apply: Callable[[Any, jax.Array, Callable], Any]
  inputs: Inputs
  activation: tatnet.TransformedActivation = RELU
  finding: str = ""
  at: str = "output"
  batched: bool = True
  q: float | None = 1.0


def takes(function: Callable, name: str) -> bool:
  """Whether a function has a parameter of that name."""
  return name in inspect.signature(function).parameters


def haiku(name, kind, forward, inputs, *, arguments=None, **options) -> Model:
  """A model from an untransformed Haiku function ``forward(*inputs, activation)``."""
  import haiku as hk

  arguments = arguments or {}

  def trace():
    return tatnet.trace(forward, *inputs.shapes, **arguments)

  def network(activation):
    given = {"activation": activation} if takes(forward, "activation") else {}
    return hk.transform_with_state(functools.partial(forward, **given, **arguments))

  def start(key):
    return network(jnp.tanh).init(key, *inputs.arrays)

  def apply(params, key, activation):
    return network(activation).apply(*params, key, *inputs.arrays)[0]

  return Model(name, kind, "Haiku", trace, start, apply, inputs, **options)


def plain_jax(
  name, kind, apply, init, inputs, *, given="shapes", arguments=None, batch_axis=0, **options
) -> Model:
  """A model from ``apply(params, *inputs, activation)`` and ``init(key)``.

  Args:
    given: whether `trace_apply` gets parameters and inputs as "shapes" or as "arrays".
    arguments: functions (activation) -> keyword arguments of apply, for a model whose
      activation has another name.
  """

  def trace():
    shapes = jax.eval_shape(init, jax.random.key(0))
    as_arrays = given == "arrays"
    params, data = (
      (init(jax.random.key(0)), inputs.arrays) if as_arrays else (shapes, inputs.shapes)
    )
    named = arguments(tatnet.placeholder) if arguments else {}
    return tatnet.trace_apply(apply, params, *data, batch_axis=batch_axis, **named)

  def run(params, key, activation):
    del key
    if arguments:
      named = arguments(activation)
    else:
      named = {"activation": activation} if takes(apply, "activation") else {}
    return apply(params, *inputs.arrays, **named)

  return Model(name, kind, "JAX", trace, init, run, inputs, **options)


def linen(name, kind, module, inputs, *, given="shapes", call=None, **options) -> Model:
  """A model from ``module(activation)``, a Flax linen module, called with the inputs."""
  call = call or {}

  def start(activation, key):
    first, second = jax.random.split(key)
    return module(activation).init({"params": first, "dropout": second}, *inputs.arrays, **call)

  def apply(activation, key, params, *arrays):
    rngs = {"dropout": key}
    return module(activation).apply(params, *arrays, rngs=rngs, mutable=["batch_stats"], **call)[0]

  def trace():
    key = jax.random.key(0)
    plain = functools.partial(start, jnp.tanh)
    params = jax.eval_shape(plain, key) if given == "shapes" else plain(key)
    return tatnet.trace_apply(
      functools.partial(apply, tatnet.placeholder, key), params, *inputs.shapes
    )

  def run(params, key, activation):
    return apply(activation, key, params, *inputs.arrays)

  return Model(
    name, kind, "Flax linen", trace, functools.partial(start, jnp.tanh), run, inputs, **options
  )


def nnx(name, kind, module, inputs, *, given="shapes", **options) -> Model:
  """A model from ``module(activation, rngs)``, a Flax NNX module, called with the inputs."""
  from flax import nnx as library

  def trace():
    def make():
      return module(tatnet.placeholder, library.Rngs(0))

    model = library.eval_shape(make) if given == "shapes" else make()
    graph, state = library.split(model)
    return tatnet.trace_apply(
      lambda state, *arrays: library.merge(graph, state)(*arrays), state, *inputs.shapes
    )

  def start(key):
    return library.split(module(jnp.tanh, library.Rngs(key)))[1]

  def run(state, key, activation):
    del key
    graph = library.split(library.eval_shape(lambda: module(activation, library.Rngs(0))))[0]
    return library.merge(graph, state)(*inputs.arrays)

  return Model(name, kind, "Flax NNX", trace, start, run, inputs, **options)


def equinox(name, kind, make, apply, inputs, *, given="shapes", **options) -> Model:
  """A model from ``make(key)``, an Equinox module, and ``apply(model, example, activation)``.

  Weights of its linear and convolutional layers are drawn anew, [outputs, inputs, *window].
  """
  import equinox as eqx

  def is_layer(node):
    return isinstance(node, (eqx.nn.Linear, eqx.nn.Conv))

  def start(key):
    model = make(key)
    layers, structure = jax.tree.flatten(model, is_leaf=is_layer)

    def drawn(layer, key):
      if not is_layer(layer):
        return layer
      outputs, inputs, *window = layer.weight.shape
      kernel = gaussian(key, (*window, inputs, outputs))
      kernel = jnp.moveaxis(kernel, (-1, -2), (0, 1))
      layer = eqx.tree_at(lambda layer: layer.weight, layer, kernel)
      if layer.bias is not None:
        layer = eqx.tree_at(lambda layer: layer.bias, layer, jnp.zeros_like(layer.bias))
      return layer

    keys = jax.random.split(key, len(layers))
    return structure.unflatten([drawn(a, k) for a, k in zip(layers, keys, strict=True)])

  def batch(model, *arrays, activation):
    return jax.vmap(lambda *example: apply(model, *example, activation))(*arrays)

  def trace():
    key = jax.random.key(0)
    model = eqx.filter_eval_shape(start, key) if given == "shapes" else start(key)
    return tatnet.trace_apply(batch, model, *inputs.shapes)

  def run(model, key, activation):
    del key
    return batch(model, *inputs.arrays, activation=activation)

  return Model(name, kind, "Equinox", trace, start, run, inputs, batched=False, **options)
