"""What training carries from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
  """Everything that a run needs to continue; a pytree of arrays.

  Attributes:
    step: number of steps taken.
    params: of the network.
    network_state: running statistics and the like.
    optimizer_state: with the curvature, where the optimiser has one.
    average: exponential moving average of the parameters; None for none.
    key: raw data of the random key that every step folds its number into.
  """

  step: jax.Array
  params: Any
  network_state: Any
  optimizer_state: Any
  average: Any
  key: jax.Array


def create_state(
  network: Any,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  inputs: jax.Array | jax.ShapeDtypeStruct,
  *,
  with_average: bool = False,
) -> TrainState:
  """The state at the start, in one compiled function.

  Args:
    network: a `tatnet.nets.Network`, or an `hk.TransformedWithState` whose function
      takes ``(inputs, is_training)``.
    optimizer: any Optax optimiser.
    key: a JAX random key; half of it initialises, half goes into the state.
    inputs: a batch as the network gets it, or its shape.
    with_average: whether to keep an average of the parameters.

  Returns:
    A `TrainState`.

  Example:
    >>> network = tatnet.nets.create("mlp", 10, width=32, depth=20)
    >>> images = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    >>> state = tatnet.training.create_state(
    ...   network, optax.sgd(0.1), jax.random.key(0), images
    ... )
    >>> int(state.step)
    0
  """

  def make(key):
    init_key, key = jax.random.split(key)
    batch = jnp.zeros(inputs.shape, inputs.dtype)
    params, network_state = network.init(init_key, batch, is_training=True)
    return TrainState(
      step=jnp.zeros([], jnp.int32),
      params=params,
      network_state=network_state,
      optimizer_state=optimizer.init(params),
      average=jax.tree.map(jnp.copy, params) if with_average else None,
      key=jax.random.key_data(key),
    )

  return jax.jit(make)(key)


def parameters_to_evaluate(state: TrainState) -> Any:
  """The average where there is one, else the parameters.

  Args:
    state: of a run.

  Returns:
    Parameters of the network.

  Example:
    >>> state = tatnet.training.TrainState(0, {"w": 1.0}, {}, (), {"w": 0.5}, None)
    >>> tatnet.training.parameters_to_evaluate(state)
    {'w': 0.5}
  """
  return state.params if state.average is None else state.average
