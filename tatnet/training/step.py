"""The train step: one jitted, donated function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.adaptive import AdaptiveKfacState
from tatnet.optim.alias import MomentumState
from tatnet.optim.evaluate import value_grad_and_factors
from tatnet.optim.losses import Loss
from tatnet.optim.state import ScaleByKfacState, factors_due
from tatnet.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Prepare = Callable[[jax.Array, jax.Array], jax.Array]


def make_train_step(
  network: Any,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  *,
  prepare: Prepare | None = None,
  average_decay: float | None = None,
  **factor_options: Any,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """A compiled step: loss, gradients, factors when they are due, update, metrics.

  Args:
    network: a `tatnet.nets.Network`, or an `hk.TransformedWithState` whose function
      takes ``(inputs, is_training)``.
    loss: as for `tatnet.value_grad_and_factors`.
    optimizer: any Optax optimiser; one that contains `tatnet.scale_by_kfac` gets
      its factors, on the steps on which they are due.
    prepare: ``(key, images) -> inputs``, augmentation and normalisation inside the
      step. None: images as they are.
    average_decay: of the moving average of the parameters, for a state that has one.
    **factor_options: `curvature`, `sharing` and `uncovered` of
      `tatnet.value_grad_and_factors`.

  Returns:
    A jitted function ``(state, batch, refresh=None) -> (state, metrics)`` that
    consumes the state. The batch is ``{"image": ..., "label": ...}``; metrics are
    means over it: "loss", "accuracy", and the norms "gradient_norm" and
    "update_norm"; of K-FAC also what its state tells: "overshoot" or, where it finds its
    own, "learning_rate", "momentum", "damping", "reduction_ratio", "expected_change" and
    "rejected". The loss is NaN where an integer label is none of the classes: a
    compiled program cannot raise an error. `refresh` says whether the factors are due, from
    `OptimizerSettings.factors_due`, and makes two programs; None asks the
    optimiser's state on the device, in one program, which is slow on CPUs for
    convolutions.

  Raises:
    ValueError: by the step, an average decay for a state without an average, or none
      for one with it.

  Example:
    >>> network = tatnet.nets.create("mlp", 10, width=32, depth=20)
    >>> optimizer = optax.adam(1e-3)
    >>> batch = {"image": jnp.ones([8, 64]), "label": jnp.arange(8)}
    >>> state = tatnet.training.create_state(
    ...   network, optimizer, jax.random.key(0), batch["image"]
    ... )
    >>> loss = tatnet.optim.SoftmaxCrossEntropy()
    >>> step = tatnet.training.make_train_step(network, loss, optimizer)
    >>> state, metrics = step(state, batch)
    >>> int(state.step), sorted(metrics)
    (1, ['accuracy', 'gradient_norm', 'loss', 'update_norm'])
  """

  def with_factors(state: TrainState, inputs, labels, key, refresh):
    evaluate = value_grad_and_factors(network, loss, **factor_options)
    result = evaluate(
      state.params,
      inputs,
      labels,
      state=state.network_state,
      key=key,
      refresh=factors_due(state.optimizer_state) if refresh is None else refresh,
      is_training=True,
    )
    extra = {"factors": result.factors, "model": result.model}
    return result.loss, result.outputs, result.gradients, result.state, extra

  def without_factors(state: TrainState, inputs, labels, key, refresh):
    del refresh

    def mean_loss(params):
      outputs, network_state = network.apply(
        params, state.network_state, key, inputs, is_training=True
      )
      return loss.per_example(outputs, labels).mean(), (outputs, network_state)

    (value, (outputs, network_state)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
      state.params
    )
    return value, outputs, gradients, network_state, {}

  def step(
    state: TrainState, batch: Batch, refresh: bool | None = None
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    prepare_key, network_key = jax.random.split(key)
    inputs = batch["image"] if prepare is None else prepare(prepare_key, batch["image"])
    evaluate = with_factors if _wants_factors(state.optimizer_state) else without_factors
    value, outputs, gradients, network_state, extra = evaluate(
      state, inputs, batch["label"], network_key, refresh
    )
    updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
      gradients, state.optimizer_state, state.params, **extra
    )
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if (average is None) != (average_decay is None):
      raise ValueError(
        f"average_decay={average_decay!r} with a state {'without' if average is None else 'with'} an"
        " average; expected both, from create_state(..., with_average=True), or neither."
      )
    if average is not None:
      average = optax.incremental_update(params, average, 1 - average_decay)
    metrics = {
      "loss": jnp.where(are_classes(outputs, batch["label"]).all(), value, jnp.nan),
      "accuracy": jnp.mean(jnp.argmax(outputs, -1) == batch["label"]),
      "gradient_norm": optax.tree.norm(gradients),
      "update_norm": optax.tree.norm(updates),
      **_of_curvature(optimizer_state),
    }
    new = TrainState(state.step + 1, params, network_state, optimizer_state, average, state.key)
    return new, metrics

  return jax.jit(step, donate_argnums=0, static_argnames="refresh")


def are_classes(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  """Which labels are numbers of outputs; all of those that are no integers."""
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    return jnp.ones(labels.shape, bool)
  return (labels >= 0) & (labels < outputs.shape[-1])


def _wants_factors(optimizer_state: Any) -> bool:
  """Whether the optimiser contains `scale_by_kfac`."""
  return any(
    isinstance(part, ScaleByKfacState)
    for part in jax.tree.leaves(
      optimizer_state, is_leaf=lambda part: isinstance(part, ScaleByKfacState)
    )
  )


_OF_ADAPTIVE_KFAC = (
  "learning_rate",
  "momentum",
  "damping",
  "reduction_ratio",
  "expected_change",
  "rejected",
)


def _of_curvature(optimizer_state: Any) -> Metrics:
  """What the state of either K-FAC tells about its steps."""

  def is_known(part):
    return isinstance(part, AdaptiveKfacState | MomentumState)

  for part in jax.tree.leaves(optimizer_state, is_leaf=is_known):
    if isinstance(part, AdaptiveKfacState):
      return {name: getattr(part, name) for name in _OF_ADAPTIVE_KFAC}
    if isinstance(part, MomentumState):
      return {"overshoot": part.overshoot}
  return {}
