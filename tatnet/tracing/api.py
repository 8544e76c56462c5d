"""`trace` and `trace_apply`: from a model to its topology."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tatnet.network.nodes import Topology
from tatnet.tracing import attention
from tatnet.tracing.arguments import (
  abstract_of,
  arrays_of,
  as_input,
  as_parameter,
  check_arguments,
  check_arrays,
  leaves_of,
  name_of,
  running_statistics,
  takes_activation,
)
from tatnet.tracing.initial_values import uniform_outputs
from tatnet.tracing.program import Equation, Reader
from tatnet.tracing.rules import RULES, activation, unknown
from tatnet.tracing.signals import linear
from tatnet.tracing.values import Data, Signal, Statistic, Unreadable, Value, Weights


def placeholder(x: jax.Array) -> jax.Array:
  """Stands for the activation to be solved for while a model is traced.

  `trace` passes it as the model's ``activation`` argument. Models that keep their
  activation elsewhere, such as a Flax or Equinox module, are built with it before
  `trace_apply`. It is no activation: run for real it gives NaN.

  Args:
    x: float array.

  Returns:
    An array like x.

  Example:
    >>> def apply(params, x):
    ...   return tatnet.placeholder(x @ params) @ params.T
    >>> try:
    ...   tatnet.trace_apply(apply, jnp.ones([8, 8]), jnp.ones([4, 8]))
    ... except tatnet.TopologyError as error:
    ...   print(error.findings[0].kind)
    tied weights
  """
  return _marked(x)


_MARKER = "tatnet_placeholder"


def _nothing(x):
  return x * jnp.nan


_nothing.__name__ = _MARKER
_marked = jax.jit(_nothing)


def trace(forward: Callable, *inputs: Any, **kwargs: Any) -> Topology:
  """Reads the topology of an untransformed Haiku function from its program.

  The function is traced abstractly: nothing of the model's size is allocated or
  computed. Whatever breaks the rules of kernel shaping is reported at once, with
  its place in the model and a remedy.

  Args:
    forward: a function as one passes to `hk.transform` or
      `hk.transform_with_state`. If it takes ``activation``, calls of that argument
      are the layers to be solved for; any other nonlinearity in it is a layer
      that keeps its own map.
    *inputs: its positional arguments: arrays or `jax.ShapeDtypeStruct`, the batch
      first. Float arrays are the signal, and so are integers that the model converts, such as
      images of uint8; what the model does to them before the first weights is preprocessing,
      behind which they are taken to have q = 1. Arrays of booleans are masks, of which all
      entries are taken to be true. Anything else, such as a flag, is passed as it is.
    **kwargs: further keyword arguments, passed as they are.

  Returns:
    A `Topology` from the inputs to the output. Of several outputs the one with
    the most nonlinear layers; trace ``lambda x, activation: forward(x, activation)[1]`` for
    another. Functions, losses and metrics that follow the last weights are no layers.

  Raises:
    TopologyError: the model breaks the rules; lists every finding.
    TypeError: a transformed function, arguments that the function does not take, or
      inputs without an array.

  Warns:
    TopologyWarning: something outside the theory but tolerated (max pooling).

  Reference:
    Deep Kernel Shaping (arXiv 2110.01765), requirements on the network and
    extended maps.

  Example:
    >>> def forward(images, activation):
    ...   x = hk.Conv2D(16, 3)(images)
    ...   for _ in range(2):
    ...     x = 0.6 * x + 0.8 * hk.Conv2D(16, 3)(activation(x))
    ...   return hk.Linear(10)(x.mean(axis=(1, 2)))
    >>> tatnet.trace(forward, jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)).num_nonlinear
    2
  """
  import haiku as hk  # the core works without Haiku

  if not callable(forward) or hasattr(forward, "init"):
    raise TypeError(
      f"trace got {forward!r}; expected the function before hk.transform. For a transformed or any"
      " other pure function use tatnet.trace_apply(apply, params, *inputs)."
    )
  if takes_activation(forward):
    kwargs = {"activation": placeholder, **kwargs}
  check_arguments(forward, inputs, kwargs)
  check_arrays("trace", inputs)
  arrays, inputs_of = arrays_of(inputs)
  network = hk.transform_with_state(lambda *args: forward(*inputs_of(args), **kwargs))

  def read(wide: bool) -> Topology:
    key = jax.random.key(0)
    abstract = abstract_of(arrays, wide)
    program, shapes = jax.make_jaxpr(network.init, return_shape=True)(key, *abstract)
    starts = uniform_outputs(program)
    values = [
      Data("state", size=math.prod(leaf.shape))
      if path[0].idx == 1
      else Weights(frozenset({name_of(path[1:])}), start, size=math.prod(leaf.shape))
      for (path, leaf), start in zip(leaves_of(shapes), starts, strict=True)
    ]

    def apply(parameters, *args):
      return network.apply(*parameters, key, *args)[0]

    return _read(apply, shapes, values, abstract, batch_axis=0)

  return _in_double_precision(read)


def trace_apply(
  apply: Callable, params: Any, *inputs: Any, batch_axis: int | None = 0, **kwargs: Any
) -> Topology:
  """Reads the topology of any pure JAX function: plain JAX, Flax, Equinox.

  The rules are those of `trace`. Parameters given as arrays tell their initial
  values; of those given as `jax.ShapeDtypeStruct` biases are taken to start at 0
  and gains of normalisations at 1: a warning and the printed layers say where.

  Args:
    apply: ``apply(params, *inputs)``. If it takes ``activation`` it is passed
      `placeholder`; else build the model with `placeholder` for the activation to
      be solved for.
    params: any pytree of arrays or shapes. What else is in it, such as flags and
      functions in an Equinox module, stays as it is.
    *inputs: arrays or shapes; anything else, such as a flag, is passed as it is.
    batch_axis: the axis of the inputs that holds the examples; None for a
      function of a single example.
    **kwargs: further keyword arguments, passed as they are.

  Returns:
    A `Topology`.

  Raises:
    TopologyError: the model breaks the rules; lists every finding.
    TypeError: no function, or inputs without an array.

  Example:
    >>> def apply(params, x, activation):
    ...   for w in params:
    ...     x = activation(x @ w)
    ...   return x
    >>> shape = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    >>> tatnet.trace_apply(apply, [shape] * 3, shape)
    3 x nonlinear  [<doctest tatnet.tracing.api.trace_apply[0]>:3 (apply)]
  """
  if not callable(apply):
    raise TypeError(f"trace_apply got {apply!r}; expected a function apply(params, *inputs).")
  check_arrays("trace_apply", inputs)
  options = {"activation": placeholder, **kwargs} if takes_activation(apply) else kwargs
  parameters, parameters_of = arrays_of(params)
  arrays, inputs_of = arrays_of(inputs)
  statistics = running_statistics(params)
  values = [as_parameter(name_of(path), leaf, statistics) for path, leaf in leaves_of(params)]

  def call(parameters, *arrays):
    return apply(parameters_of(parameters), *inputs_of(arrays), **options)

  def read(wide: bool) -> Topology:
    return _read(call, abstract_of(parameters, wide), values, abstract_of(arrays, wide), batch_axis)

  return _in_double_precision(read)


def _in_double_precision(read: Callable[[bool], Topology]) -> Topology:
  """Traces in float64, where constants are exact; as given if the model insists on its dtypes."""
  with jax.enable_x64(True):
    try:
      program = read(True)
    except (TypeError, ValueError):
      program = None
  return program() if program is not None else read(False)()


def _read(apply, params, values: list[Value], inputs, batch_axis: int | None) -> Callable:
  """Traces now, under the caller's precision; interprets when called."""
  program = jax.make_jaxpr(apply)(params, *inputs)

  def interpret() -> Topology:
    reader = Reader(RULES, unknown, {_MARKER: activation, **attention.CALLS})
    arguments = [
      as_input(reader, f"input {number}", leaf, batch_axis)
      for number, leaf in enumerate(jax.tree.leaves(inputs))
    ]
    outputs = reader.run(program, [*values, *arguments])
    topology = _topology(reader, outputs)
    reader.findings.report()
    return topology

  return interpret


def _topology(reader: Reader, outputs: list[Value]) -> Topology:
  """The network up to the deepest output; what follows its last weights is no layer."""
  ends = [value for value in outputs if isinstance(value, (Signal, Statistic, Unreadable))]
  ends = [value for value in ends if value.node is not None]
  if not ends:
    reader.findings.report()
    raise ValueError(
      "No output of the traced function depends on its float inputs; expected a network that maps"
      " inputs to outputs. Pass the images (or features) as positional arguments."
    )
  network = reader.network
  value = max(
    ends, key=lambda v: (network.depth(v.node), isinstance(v, Signal), v.node.finding is None)
  )
  seen = Equation("output", [], [], [], {}, "the output", 1e-6)
  if isinstance(value, Statistic) and value.pooled is not None and "f" not in value.over:
    value = value.pooled() or value
  if isinstance(value, Signal) and not (value.is_linear or value.softmax or value.node.has_layers):
    # The only nonlinearity there is.
    value = linear(reader, value, seen)
  node = value.node
  # Heads that are added up, as value and advantages are, are no stream that layers read.
  heads = all(term.kind == "affine" and not term.consumed for term in node.sources)
  if node.kind == "sum" and not heads and isinstance(value, Signal):
    scales = (node.made_with, value.coefficient)
    network.consume_sum(node, min(scales, key=lambda s: abs(abs(s) - 1)), seen.tolerance)
  return network.topology(node)
