"""`kernel_report`: whether a network will train, seen before it trains."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.diagnostics.kernels.fluctuations import spread
from tatnet.diagnostics.kernels.measurement import Measurement, measure, traced
from tatnet.diagnostics.kernels.pairs import InputPairs
from tatnet.diagnostics.kernels.prediction import Prediction, State, nonlinear_layers, predict
from tatnet.diagnostics.kernels.record import KernelReport
from tatnet.layer.activations import Activation
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.nodes import Topology

_GRID = np.concatenate([np.linspace(-1, 1, 65), [0.0]])


def kernel_report(
  forward: Callable,
  inputs: jax.Array | InputPairs,
  *,
  activation: str | Activation | Callable | TransformedActivation,
  seeds: int | Sequence[int] = 5,
) -> KernelReport:
  """Predicted against measured q and c at every nonlinear layer, and what follows.

  The prediction starts from what is measured at the first layer, averaged over
  seeds, and from there on knows only the traced topology and the local maps. q is
  mapped for every input and location; C is taken at each layer's mean q.

  Args:
    forward: an untransformed Haiku function ``forward(inputs, activation=...)``, as
      `tatnet.trace` takes it.
    inputs: a batch of real inputs, some dozens, of which all pairs are looked at; or
      the pairs of `input_pairs`.
    activation: that of the network: a name, an elementwise JAX function, or a
      `TransformedActivation`. A function is passed to `forward` as it is, the others
      as a record.
    seeds: how many random networks, or the seeds themselves.

  Returns:
    A `KernelReport`.

  Raises:
    TopologyError: the network cannot be traced; lists why.
    ValueError: fewer than two inputs, no seeds, inputs with q = 0, attention that mixes
      tokens (see `tatnet.diagnostics.token_report`), or an activation that has no maps, is never called, or is called in a way in which its calls
      cannot be told apart (in a loop that is none of Haiku's, under `jax.vmap`).
    TypeError: inputs that are not float arrays.

  References:
    Zhang, Botev, Martens (arXiv 2203.08120); Martens et al. (arXiv 2110.01765); Li,
    Nica, Roy (arXiv 2206.02768) for the scatter.

  Example:
    >>> def forward(x, activation):
    ...   w_init = tatnet.ScaledUniformOrthogonal()
    ...   for _ in range(20):
    ...     x = activation(hk.Linear(64, w_init=w_init)(x))
    ...   return hk.Linear(10, w_init=w_init)(x)
    >>> act = tatnet.transform_activation("leaky_relu", tatnet.chain(20), tatnet.TAT(0.8))
    >>> images = jax.random.normal(jax.random.key(0), [8, 64])
    >>> report = tatnet.diagnostics.kernel_report(forward, images, activation=act)
    >>> report
    <KernelReport of 20 layers: well shaped>
  """
  batch, pairs = _inputs(inputs)
  seed_list = _seeds(seeds)
  record = as_transformed(activation)
  is_plain = callable(activation) and not isinstance(activation, Activation | TransformedActivation)
  called = activation if is_plain else record
  topology, tolerated = traced(forward, batch, called)
  nodes = list(nonlinear_layers(topology))
  own = [place for place, node in enumerate(nodes) if node.activation is None]
  if not own:
    raise ValueError(
      "No call of the activation lies between the inputs and the output of forward; expected a"
      " network in which its argument activation is the nonlinearity."
    )
  measured = measure(forward, batch, pairs, called, [nodes[place] for place in own], seed_list)

  place, widths = itertools.count(), iter(measured.widths)

  def maps_of(node):
    # What comes before the first measured layer is in the measured values already.
    if next(place) < own[0]:
      return None
    return record.maps if node.activation is None else node.activation.maps

  prediction = predict(
    topology,
    _start(measured),
    maps_of,
    (next(widths) if node.activation is None else None for node in nodes),
  )
  return _report(record, topology, tolerated + measured.spread_kernels, measured, prediction, own)


def _start(measured: Measurement) -> State:
  """The signal at the first layer: means over the networks, and a grid of cosines."""
  q = np.mean(measured.q[0], axis=0, dtype=np.float64)
  c = np.mean(measured.c[0], axis=0, dtype=np.float64)
  if not np.all(np.isfinite(q)) or not np.all(q > 0):
    raise ValueError(
      f"The first layer gets inputs of q between {np.min(q):.3g} and {np.max(q):.3g}; expected"
      " finite numbers above 0. Leave out inputs that are 0 throughout, or use"
      " tatnet.per_location_normalize."
    )
  return State(q.ravel(), np.concatenate([c.ravel(), _GRID]), pair=float(np.mean(c)))


def _report(
  record: TransformedActivation,
  topology: Topology,
  tolerated: tuple[str, ...],
  measured: Measurement,
  prediction: Prediction,
  own: list[int],
) -> KernelReport:
  states = [prediction.layers[place].state for place in own]
  everywhere = [*states, prediction.output]
  locations, pairs = measured.q[0].shape[-1], measured.c[0].shape[1]
  cosines = np.array([state.c[: pairs * locations] for state in states])
  curves = np.array([state.c[pairs * locations :] for state in everywhere])
  # The weights in front of a layer add the noise of a linear layer.
  on_average = [_of_a_linear_layer(state) for state in states]
  gradients = prediction.gradients[own]
  with np.errstate(all="ignore"):
    gradients = np.sqrt(gradients / gradients[-1])
  widths = measured.widths
  narrowness = prediction.output.narrowness.total
  return KernelReport(
    activation=record,
    topology=topology,
    tolerated=tolerated,
    where=measured.where,
    widths=widths,
    q_predicted=np.array([state.q.reshape(-1, locations).mean(-1) for state in states]),
    q_measured=np.array([q.mean(-1) for q in measured.q], np.float64),
    c_predicted=cosines.reshape(len(states), pairs, locations).mean(-1),
    c_measured=np.array([c.mean(-1) for c in measured.c], np.float64),
    last_cosines=measured.c[-1].ravel().astype(np.float64),
    gradients_predicted=gradients,
    gradients_measured=measured.gradients,
    q_scatter=np.sqrt(np.array([state.q_noise.total for state in states]) + 2 / widths),
    c_scatter=np.sqrt(
      np.array([state.c_variance for state in states]) + np.array(on_average) / widths
    ),
    map_inputs=_GRID[:-1],
    map_outputs=curves[-1, :-1],
    orthogonal=curves[:, -1],
    slopes=np.array([state.slope for state in everywhere]),
    # Where the maps end, the layers count as a chain.
    narrowness=narrowness if math.isfinite(everywhere[-1].slope) else float(np.sum(1 / widths)),
  )


def _of_a_linear_layer(state: State) -> float:
  """Variance of the pair's cosine behind one of unit width, over where that cosine lies."""
  places, weights = spread(state.pair, state.c_variance)
  return float(weights @ (1 - places**2) ** 2)


def _inputs(inputs: jax.Array | InputPairs) -> tuple[jax.Array, np.ndarray]:
  """The batch, and the indices of the pairs."""
  if isinstance(inputs, InputPairs):
    return inputs.inputs, np.arange(len(inputs.inputs)).reshape(-1, 2)
  if not hasattr(inputs, "dtype") or not jnp.issubdtype(inputs.dtype, jnp.floating):
    found = getattr(inputs, "dtype", type(inputs).__name__)
    raise TypeError(f"inputs is of {found}; expected a float array [batch, ...], or input_pairs.")
  if np.ndim(inputs) < 2 or len(inputs) < 2:
    raise ValueError(
      f"inputs has the shape {np.shape(inputs)}; expected a batch of two or more examples, since"
      " cosines are those of pairs."
    )
  return jnp.asarray(inputs), np.stack(np.triu_indices(len(inputs), 1), axis=1)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
  found = list(range(seeds)) if isinstance(seeds, int | np.integer) else list(seeds)
  if not found:
    raise ValueError(f"seeds={seeds!r}; expected a positive number, or a list of seeds.")
  return found
