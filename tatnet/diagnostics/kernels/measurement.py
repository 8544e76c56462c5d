"""What random networks do: q, cosines and gradients at every nonlinear layer."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tatnet.diagnostics.kernels.delta import spread_kernels
from tatnet.diagnostics.kernels.prediction import every_layer
from tatnet.diagnostics.kernels.probes import (
  Probes,
  Reading,
  readings,
  split_probes,
  with_calls,
)
from tatnet.diagnostics.kernels.warned import collected, findings_of, said
from tatnet.network.lines import Mixing
from tatnet.network.nodes import Nonlinear, Topology
from tatnet.tracing.api import placeholder, trace

# Programs for a single use: optimisations would take longer than they run.
_compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
  """Values at the inputs of the nonlinear layers, in the order of the traced topology.

  Attributes:
    where: places of the layers: Haiku modules, positions in stacks, number of the call.
    widths: numbers of features, shape [layers].
    q: q values, one array ``[seeds, inputs, locations]`` for each layer.
    c: cosine similarities, arrays ``[seeds, pairs, locations]``.
    gradients: root mean square over the inputs of the norm of the gradient of a random
      direction of the output, shape [layers, seeds].
    spread_kernels: convolutions that do not start as Delta and read zeros.
  """

  where: list[str]
  widths: np.ndarray
  q: list[np.ndarray]
  c: list[np.ndarray]
  gradients: np.ndarray
  spread_kernels: tuple[str, ...]


def traced(
  forward: Callable, inputs: jax.Array, activation: Callable
) -> tuple[Topology, tuple[str, ...]]:
  """The topology, and what its trace warned of.

  Places of its layers end with the number of the activation's call.

  Raises:
    ValueError: attention mixes tokens: cosines are then those of tokens of one input.
  """

  def call(number, x):
    with jax.named_scope(f"activation_{number}"):
      return placeholder(x)

  shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
  with collected() as caught:
    topology = trace(with_calls(forward, activation, call), shape)
  mixed = [node for node in every_layer(topology) if isinstance(node, Mixing) and node.step > 0]
  if mixed:
    raise ValueError(
      f"The network has {len(mixed)} attention layers that mix tokens, the first {mixed[0]}: its maps are"
      " of the cosines between tokens of one input, and this report is of those between inputs. Use"
      " tatnet.diagnostics.token_report."
    )
  for warning in caught:
    warnings.warn(warning.message, stacklevel=3)
  return topology, said(findings_of(caught))


def measure(
  forward: Callable,
  inputs: jax.Array,
  pairs: np.ndarray,
  activation: Callable,
  layers: Sequence[Nonlinear],
  seeds: Sequence[int],
) -> Measurement:
  """Initialises a network from several seeds and observes it.

  Args:
    forward: an untransformed Haiku function of the inputs and ``activation=``.
    inputs: a batch.
    pairs: indices of inputs, shape [pairs, 2].
    activation: what is called.
    layers: those to be measured, from `traced`.
    seeds: one network for each.

  Returns:
    The measurement.

  Raises:
    ValueError: the activation is called on arrays that do not have the batch first,
      or in a way in which its calls cannot be told apart.
  """
  widths: dict[int, int] = {}
  probes = Probes(len(inputs), pairs)

  def call(number, x):
    widths[number] = x.shape[-1]
    return activation(probes(number, x))

  plain = hk.transform_with_state(lambda x: forward(x, activation=activation))
  initialize = _compiled(plain.init)
  probed = hk.transform_with_state(with_calls(forward, activation, call))
  shapes, _ = jax.eval_shape(probed.init, jax.random.key(0), inputs)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), split_probes(shapes)[1])

  @_compiled
  def observe(params, state, key, x):
    def outputs(probes):
      merged = hk.data_structures.merge(params, probes)
      return jax.tree.leaves(probed.apply(merged, state, key, x)[0])

    y, pull_back = jax.vjp(outputs, zeros)
    return pull_back(_directions(key, y))[0]

  found, spread = [], None
  for seed in seeds:
    init_key, key = jax.random.split(jax.random.key(seed))
    # One program at a time: on few cores they would wait for each other's threads.
    params, state = jax.block_until_ready(initialize(init_key, inputs))
    if spread is None:
      spread = spread_kernels(forward, params, state, inputs)
    found.append(readings(jax.device_get(observe(params, state, key, inputs))))
  found = [
    Reading(*map(np.stack, zip(*of_seeds, strict=True))) for of_seeds in zip(*found, strict=True)
  ]
  numbers, own = zip(*(_reading_of(layer, found) for layer in layers), strict=True)
  return Measurement(
    [layer.where for layer in layers],
    np.array([widths[number] for number in numbers]),
    [reading.q for reading in own],
    [reading.c for reading in own],
    np.array([np.sqrt(np.mean(reading.gradient, -1)) for reading in own], np.float64),
    spread or (),
  )


def _reading_of(layer: Nonlinear, found: Sequence[Reading]) -> tuple[int, Reading]:
  """Number and reading of a layer, whose place holds the number and positions in stacks."""
  *path, last = layer.where.split("/")
  number = int(last.rpartition("_")[-1])
  position = tuple(int(part) for part in path if part.isdigit())
  for reading in found:
    times = reading.times[0]
    is_own = np.all(times == 1) and np.all(reading.number[0] == number)
    if is_own and len(position) == times.ndim:
      return number, jax.tree.map(lambda leaf: leaf[(slice(None), *position)], reading)
  raise ValueError(
    f"The call of the activation at {layer.where} cannot be told from others: it is made more than"
    " once by the same module, in a loop that is none of Haiku's, or under vmap, or no gradient"
    " reaches it. Expected a call for every layer, the batch first, and Python loops or"
    " hk.layer_stack."
  )


def _directions(key: jax.Array, outputs: list[jax.Array]) -> list[Any]:
  """Random cotangents, of norm about 1 for every example."""
  keys = jax.random.split(key, len(outputs))
  directions = []
  for own, y in zip(keys, outputs, strict=True):
    if jnp.issubdtype(y.dtype, jnp.floating):
      scale = np.sqrt(y.shape[0] / y.size)
      directions.append((scale * jax.random.normal(own, y.shape)).astype(y.dtype))
    else:
      directions.append(np.zeros(y.shape, jax.dtypes.float0))
  return directions
