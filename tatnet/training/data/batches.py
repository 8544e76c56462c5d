"""Which examples are in which batch: a pure function of the number of the step."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_SHUFFLING, _AUGMENTING = 0, 1


@dataclasses.dataclass(frozen=True)
class Shuffled:
  """Endless shuffled epochs; resuming at a step needs nothing but its number.

  Every epoch is a permutation of its own, cut into batches. The ragged last batch is
  dropped: an example is seen at most once in an epoch, and the few that are left over
  are others in every epoch.

  Attributes:
    num_examples: size of the data set.
    batch_size: examples in a batch, those of all processes together.
    seed: of the permutations.
    part: this process's number and the number of processes; see `shard`.

  Raises:
    ValueError: a size that is not positive, a batch larger than the data set, a
      negative seed, or a number of processes that does not divide the batch.

  Example:
    >>> from tatnet.training import data
    >>> order = data.Shuffled(num_examples=10, batch_size=4, seed=0)
    >>> order.steps_per_epoch, order.indices(7).shape
    (2, (4,))
    >>> bool(np.all(order.indices(7)[2:] == order.shard(1, 2).indices(7)))
    True
  """

  num_examples: int
  batch_size: int
  seed: int
  part: tuple[int, int] = (0, 1)

  def __post_init__(self):
    _check_sizes(self.num_examples, self.batch_size, self.part)
    if self.batch_size > self.num_examples:
      raise ValueError(
        f"batch_size={self.batch_size} of {self.num_examples} examples: an epoch has no whole"
        " batch. Expected a batch at most as large as the data set."
      )
    if not 0 <= self.seed < 2**64:
      raise ValueError(f"seed={self.seed}; expected an integer in [0, 2^64).")

  @property
  def steps_per_epoch(self) -> int:
    """Number of whole batches in an epoch."""
    return self.num_examples // self.batch_size

  @property
  def local_size(self) -> int:
    """Number of examples of a batch that are this process's."""
    return self.batch_size // self.part[1]

  def shard(self, index: int, count: int) -> "Shuffled":
    """The part of every batch that process `index` of `count` reads.

    The parts, one after the other, are the batch that one process alone would read.
    """
    return dataclasses.replace(self, part=(index, count))

  def indices(self, step: int) -> np.ndarray:
    """Numbers of the examples in the batch of a step, int64 ``[batch_size / count]``."""
    if step < 0:
      raise ValueError(f"step={step}; expected a number from 0.")
    epoch, batch = divmod(step, self.steps_per_epoch)
    start = batch * self.batch_size + self.part[0] * self.local_size
    order = _permutation(self.num_examples, self.seed, epoch)
    return order[start : start + self.local_size].copy()

  def numbers(self, step: int, count: int) -> np.ndarray:
    """Random numbers for the augmentation of those examples, ``[batch_size / count, count]``.

    Drawn for the whole batch at once: a generator for each example takes a tenth of the
    time of its decoding.
    """
    drawn = _generator(self.seed, step, _AUGMENTING).random((self.batch_size, count))
    start = self.part[0] * self.local_size
    return drawn[start : start + self.local_size]


class EvaluationBatch(NamedTuple):
  """Examples of one batch.

  Attributes:
    indices: numbers of the examples, int64 ``[places]``.
    mask: False where a place is padding and does not count, bool ``[places]``.
  """

  indices: np.ndarray
  mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class InOrder:
  """Every example once, in the order of the data; the last batch is padded.

  Attributes:
    num_examples: size of the data set.
    batch_size: examples in a batch, those of all processes together.
    part: this process's number and the number of processes.

  Raises:
    ValueError: as for `Shuffled`, except that the data set may be smaller than a batch.
  """

  num_examples: int
  batch_size: int
  part: tuple[int, int] = (0, 1)

  def __post_init__(self):
    _check_sizes(self.num_examples, self.batch_size, self.part)

  @property
  def num_steps(self) -> int:
    """Number of batches, the same on every process."""
    return -(-self.num_examples // self.batch_size)

  @property
  def local_size(self) -> int:
    """Number of places in a batch that are this process's."""
    return self.batch_size // self.part[1]

  def batch(self, step: int) -> EvaluationBatch:
    """The batch of a number, and which of its places count."""
    start = step * self.batch_size + self.part[0] * self.local_size
    indices = start + np.arange(self.local_size)
    mask = indices < self.num_examples
    return EvaluationBatch(np.where(mask, indices, 0), mask)


def evaluation_batches(
  num_examples: int, batch_size: int, part: tuple[int, int] = (0, 1)
) -> Iterator[EvaluationBatch]:
  """Batches of one size in which every example counts exactly once.

  Args:
    num_examples: size of the data set.
    batch_size: examples in a batch, those of all processes together.
    part: this process's number and the number of processes; each gets equally many
      batches, so that collective operations match.

  Yields:
    For each batch int64 indices ``[batch_size / count]`` and a bool mask of that shape;
    padding has index 0.

  Raises:
    ValueError: as for `Shuffled`, except that the data set may be smaller than a batch.

  Example:
    >>> from tatnet.training import data
    >>> [(b.indices.tolist(), b.mask.tolist()) for b in data.evaluation_batches(3, 2)]
    [([0, 1], [True, True]), ([2, 0], [True, False])]
  """
  order = InOrder(num_examples, batch_size, part)
  return (order.batch(step) for step in range(order.num_steps))


def _check_sizes(num_examples: int, batch_size: int, part: tuple[int, int]) -> None:
  """Raises ValueError unless there are examples, and batches that the processes can share."""
  if num_examples < 1 or batch_size < 1:
    raise ValueError(
      f"num_examples={num_examples}, batch_size={batch_size}; expected positive numbers."
    )
  index, count = part
  if not 0 <= index < count:
    raise ValueError(f"Process {index} of {count}; expected a number from 0 to {count - 1}.")
  if batch_size % count:
    raise ValueError(
      f"batch_size={batch_size} on {count} processes; expected a multiple of {count}."
    )


@functools.lru_cache(maxsize=4)  # readers of a shared order are at most one epoch apart
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  return _generator(seed, epoch, _SHUFFLING).permutation(num_examples)


def _generator(seed: int, number: int, purpose: int) -> np.random.Generator:
  # The counter's highest word keeps the streams of different purposes apart.
  counter = np.array([0, 0, 0, purpose], np.uint64)
  key = np.array([seed, number], np.uint64)
  return np.random.Generator(np.random.Philox(counter=counter, key=key))
