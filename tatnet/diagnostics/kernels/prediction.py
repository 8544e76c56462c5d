"""What the maps say of a network, layer by layer: q, c, slopes and gradients.

The nodes of a topology are walked in the order of the signal: a nonlinear layer
applies its maps, a weighted sum adds up what its branches have made of the value
at its beginning, ``q = sum_j w_j^2 q_j`` and ``q c = sum_j w_j^2 q_j c_j``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tatnet.diagnostics.kernels.fluctuations import (
  PAIR_SILENCE,
  SILENCE,
  LayerNoise,
  Noise,
  layer_noise,
  linear_noise,
  spread,
)
from tatnet.diagnostics.kernels.interpolated_maps import c_map, q_map, rounded
from tatnet.layer.maps import LocalMaps
from tatnet.network.graph import Graph
from tatnet.network.lines import Centring, Dropout, LinearMap
from tatnet.network.nodes import Composition, Nonlinear, Topology, WeightedSum


@dataclasses.dataclass(frozen=True)
class State:
  """The signal at one place of the network.

  Attributes:
    q: q values of the inputs, shape [inputs].
    c: cosines, shape [pairs]; at the layer's mean q.
    pair: the cosine whose scatter is followed: its mean over networks of finite width.
    slope: derivative of c at 1 in that at the input.
    q_noise: relative variance of q.
    pair_noise: covariance of the mean log q of a pair and its cosine.
    narrowness: depth over width, counted as noise of linear layers.
    width: of the last layer.
  """

  q: np.ndarray
  c: np.ndarray
  pair: float
  slope: float = 1.0
  q_noise: Noise = SILENCE
  pair_noise: Noise = PAIR_SILENCE
  narrowness: Noise = SILENCE
  width: float = math.inf

  @property
  def mean_q(self) -> float:
    """Mean over the inputs."""
    return float(np.mean(self.q))

  @property
  def c_variance(self) -> float:
    """Variance of `pair` over networks."""
    return float(self.pair_noise.total[1, 1])


@dataclasses.dataclass(frozen=True)
class Layer:
  """A nonlinear layer, and the signal at its input.

  Attributes:
    node: the layer.
    state: the signal that enters it.
    gradient: factor on the squared norm of a gradient, from its output to its input.
  """

  node: Nonlinear
  state: State
  gradient: float


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The walk through a network.

  Attributes:
    layers: its nonlinear layers, in the order of the signal.
    output: the signal at its output.
    gradients: squared norm of the gradient at the input of each layer, for one of
      norm 1 at the output, shape [layers].
  """

  layers: list[Layer]
  output: State
  gradients: np.ndarray


def predict(
  topology: Topology,
  start: State,
  maps_of: Callable[[Nonlinear], LocalMaps | None],
  widths: Iterator[float | None],
) -> Prediction:
  """Walks a network.

  Args:
    topology: built of the nodes of `tatnet.network.nodes`.
    start: the signal at its input.
    maps_of: the local maps of a layer; None for one that is to be passed over.
    widths: of the nonlinear layers, in the order of the walk; None for that before.

  Returns:
    The prediction; nan behind a layer whose maps are not defined at the q that
    reaches it.
  """
  layers: list[Layer] = []
  gradients: dict[int, float] = {}

  def walk(node: Topology, state: State) -> tuple[State, Callable[[float], float]]:
    """The signal behind a part, and what takes a gradient back through it."""
    match node:
      case Nonlinear():
        return nonlinear(node, state)
      case LinearMap():
        return _through_line(node, maps_of, state)
      case Composition(parts=parts):
        backs = []
        for part in parts:
          state, back = walk(part, state)
          backs.append(back)
        return state, lambda gradient: functools.reduce(lambda g, f: f(g), backs[::-1], gradient)
      case WeightedSum(weights=weights, branches=branches):
        squares, beginning = [weight**2 for weight in weights], _branch(state)
        ends, backs = zip(*[walk(branch, beginning) for branch in branches], strict=True)
        return _joined(state, squares, ends), lambda gradient: sum(
          square * back(gradient) for square, back in zip(squares, backs, strict=True)
        )
      case Graph(steps=steps):
        return graph(steps, state)
    return state, lambda gradient: gradient

  def nonlinear(node, state):
    number = len(layers)
    state = dataclasses.replace(state, width=next(widths) or state.width)
    maps = maps_of(node)
    after, factor = (state, 1.0) if maps is None else _through(maps, state)
    layers.append(Layer(node, state, factor))

    def back(gradient):
      gradients[number] = factor * gradient
      return gradients[number]

    return after, back

  def graph(steps, state):
    values, backs = [_branch(state)], []
    for step in steps:
      squares = [term.weight**2 for term in step.terms]
      ends, own = zip(*[walk(t.piece, values[t.source]) for t in step.terms], strict=True)
      values.append(ends[0] if len(ends) == 1 else _joined(values[0], squares, ends))
      backs.append([(t.source, w, f) for t, w, f in zip(step.terms, squares, own, strict=True)])

    def back(gradient):
      at = [0.0] * len(steps) + [gradient]
      for number in range(len(steps), 0, -1):
        for source, square, own in backs[number - 1]:
          at[source] += square * own(at[number])
      return at[0]

    return _joined(state, [1.0], [values[-1]]), back

  output, back = walk(topology, start)
  back(1.0)
  return Prediction(layers, output, np.array([gradients[k] for k in range(len(layers))]))


def nonlinear_layers(topology: Topology) -> Iterator[Nonlinear]:
  """The nonlinear layers of a network, in the order in which `predict` walks them."""
  return (layer for layer in every_layer(topology) if isinstance(layer, Nonlinear))


def every_layer(topology: Topology) -> Iterator[Topology]:
  """What a network is composed of, in the order in which `predict` walks it."""
  match topology:
    case Composition(parts=parts) | WeightedSum(branches=parts):
      for part in parts:
        yield from every_layer(part)
    case Graph(steps=steps):
      for step in steps:
        for term in step.terms:
          yield from every_layer(term.piece)
    case _:
      yield topology


def _through_line(
  node: LinearMap, maps_of: Callable[[Nonlinear], LocalMaps | None], state: State
) -> tuple[State, Callable[[float], float]]:
  """The signal behind mixing, dropout or a normalisation that subtracts a mean."""
  q, cosines = state.q, {}
  if isinstance(node, Dropout):
    q = q / node.keep
  if isinstance(node, Centring):
    q = np.ones_like(q)
    for layer in nonlinear_layers(node.behind):
      maps = maps_of(layer)
      cosines[layer.activation] = (lambda c: c) if maps is None else maps.C
  offset, slope = node.line(cosines)
  keeps_q = 0.0 if isinstance(node, Centring) else 1.0
  after = dataclasses.replace(
    state,
    q=q,
    c=offset + slope * state.c,
    pair=offset + slope * state.pair,
    slope=slope * state.slope,
    q_noise=state.q_noise.through(keeps_q, 0.0),
    pair_noise=state.pair_noise.through(np.diag([keeps_q, slope]), np.zeros((2, 2))),
  )
  return after, lambda gradient: slope * gradient


def _through(maps: LocalMaps, state: State) -> tuple[State, float]:
  """The signal behind a nonlinear layer, and the factor on gradients."""
  q, width = state.mean_q, state.width
  try:
    if not 1e-30 < q < 1e30:
      raise ValueError(f"q={q}")
    q_after = q_map(maps, state.q)
    slope_at_1 = maps.c_slope(1.0, q, q)
    c_after = c_map(maps, q)(state.c)
  except ValueError:  # the activation cannot be integrated there, or maps q to 0
    return _undefined(state), math.nan
  mean_after = float(np.mean(q_after))
  noise, pair, pair_noise = _of_pair(maps, q, state)
  after = State(
    q_after,
    c_after,
    pair,
    state.slope * slope_at_1,
    state.q_noise.through(noise.q_slope, noise.of_q / width),
    pair_noise,
    state.narrowness.through(1.0, 1 / width),
    width,
  )
  return after, slope_at_1 * mean_after / q


def _of_pair(maps: LocalMaps, q: float, state: State) -> tuple[LayerNoise, float, Noise]:
  """Noise of the layer, and mean and covariance of the pair behind it."""
  places, weights = spread(state.pair, state.c_variance)
  here, *around = (layer_noise(maps, rounded(q), rounded(c)) for c in (state.pair, *places))
  values = c_map(maps, q)(places)
  mean = float(weights @ values)
  deviation = float(weights @ (places - weights @ places) ** 2)
  slope = (
    math.sqrt(weights @ (values - mean) ** 2 / deviation)
    if deviation > 1e-12
    else maps.c_slope(float(np.clip(state.pair, -1, 1)), q, q)
  )
  derivatives = np.array([[here.q_slope, 0.0], [here.c_in_q, slope]])
  added = sum(w * noise.of_pair for w, noise in zip(weights, around, strict=True)) / state.width
  drift = sum(w * noise.drift for w, noise in zip(weights, around, strict=True)) / state.width
  return here, mean + drift, state.pair_noise.through(derivatives, added)


def _branch(state: State) -> State:
  return dataclasses.replace(
    state,
    q_noise=state.q_noise.branch(),
    pair_noise=state.pair_noise.branch(),
    narrowness=state.narrowness.branch(),
  )


def _joined(state: State, squares: list[float], ends: list[State]) -> State:
  q = sum(s * end.q for s, end in zip(squares, ends, strict=True))
  parts = [s * end.mean_q for s, end in zip(squares, ends, strict=True)]
  total = sum(parts)
  shares = [part / total for part in parts]

  def mean(name):
    return sum(share * getattr(end, name) for share, end in zip(shares, ends, strict=True))

  width, pair = min(end.width for end in ends), mean("pair")

  def noise(name, linear):
    return getattr(state, name).joined(shares, [getattr(end, name) for end in ends], linear / width)

  return State(
    q,
    mean("c"),
    pair,
    mean("slope"),
    noise("q_noise", 2.0),
    noise("pair_noise", linear_noise(pair)),
    noise("narrowness", 1.0),
    width,
  )


def _undefined(state: State) -> State:
  return State(np.full_like(state.q, math.nan), np.full_like(state.c, math.nan), math.nan, math.nan)
