"""Evaluation that counts every example exactly once."""

import functools
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tatnet.training.step import Batch, Prepare, are_classes

_logger = logging.getLogger(__name__)


class Result(NamedTuple):
  """Means over a whole data set.

  Attributes:
    loss: cross-entropy, without label smoothing, in nats; of examples with a label at every
      location the mean over them. NaN, with a warning, where a label is none of the network's
      classes.
    accuracy: share of labels whose logit is the largest.
    count: number of examples.
  """

  loss: float
  accuracy: float
  count: int


def make_evaluation(
  network: Any, *, prepare: Prepare | None = None
) -> Callable[[Any, Any, Iterable[Batch]], Result]:
  """A function that evaluates parameters on batches with masks.

  Args:
    network: as for `make_train_step`.
    prepare: ``(key, images) -> inputs``; the key is always the same. None: images
      as they are.

  Returns:
    A function ``(params, network_state, batches) -> Result``. Batches are
    ``{"image", "label", "mask"}``, labels ``[batch]`` or ``[batch, *locations]``; entries whose
    mask ``[batch]`` is False, which pad the last batch, do not count.

  Raises:
    ValueError: the function is called without batches.

  Example:
    >>> network = tatnet.nets.create("mlp", 2, width=16, depth=20)
    >>> params, state = network.initialize(jax.random.key(0), jnp.ones([4, 3]))
    >>> batch = {
    ...   "image": jnp.ones([4, 3]), "label": jnp.zeros(4, int), "mask": jnp.arange(4) < 3
    ... }
    >>> tatnet.training.make_evaluation(network)(params, state, [batch]).count
    3
  """

  @jax.jit
  def sums(params, network_state, batch: Batch):
    images = batch["image"]
    inputs = images if prepare is None else prepare(jax.random.key(0), images)
    logits, _ = network.apply(params, network_state, None, inputs, is_training=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    correct = jnp.argmax(logits, -1) == batch["label"]
    unknown = ~are_classes(logits, batch["label"])
    locations = tuple(range(1, losses.ndim))
    of_examples = (
      losses.mean(locations),
      correct.mean(locations),
      jnp.ones(len(losses)),
      unknown.sum(locations),
      jnp.full(len(losses), math.prod(losses.shape[1:])),
    )
    # where, not a product: padding may hold anything, NaN too.
    return jnp.stack([jnp.where(batch["mask"], values, 0).sum() for values in of_examples])

  def evaluate(params, network_state, batches: Iterable[Batch]) -> Result:
    # Summed on the host in double precision: 32 bits lose counts beyond 2^24.
    totals = [jax.device_get(sums(params, network_state, batch)).astype(float) for batch in batches]
    if not totals:
      raise ValueError("evaluate got no batches; expected at least one.")
    loss, correct, count, unknown, labels = functools.reduce(lambda a, b: a + b, totals)
    if unknown:
      loss = math.nan
      _logger.warning(
        "%d of %d labels are none of the network's classes: the loss is not a number.",
        *(unknown, labels),
      )
    return Result(loss / count, correct / count, int(count))

  return evaluate
