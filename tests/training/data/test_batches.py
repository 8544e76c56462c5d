"""The order of examples: permutations, resumption, sharing, evaluation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatnet.training import data

SIZES = st.tuples(st.integers(1, 200), st.integers(1, 40)).filter(lambda s: s[1] <= s[0])


@given(SIZES, st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_an_epoch_sees_each_example_at_most_once(sizes, seed, epoch):
  order = data.Shuffled(*sizes, seed)
  steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
  seen = np.concatenate([order.indices(step) for step in steps])
  assert len(seen) == sizes[0] - sizes[0] % sizes[1]
  assert len({*seen.tolist()}) == len(seen)
  assert seen.min() >= 0
  assert seen.max() < sizes[0]


def test_an_epoch_without_leftovers_sees_all():
  order = data.Shuffled(60, 20, 0)
  assert sorted(np.concatenate([order.indices(s) for s in range(3)])) == list(range(60))


def test_leftovers_differ_between_epochs():
  order = data.Shuffled(10, 9, 0)
  left = {*range(10)}
  assert len({(left - {*order.indices(step).tolist()}).pop() for step in range(60)}) == 10


def test_epochs_and_seeds_differ():
  order = data.Shuffled(100, 50, 0)
  first = np.concatenate([order.indices(0), order.indices(1)])
  second = np.concatenate([order.indices(2), order.indices(3)])
  other = data.Shuffled(100, 50, 1).indices(0)
  assert np.any(first != second)
  assert np.any(order.indices(0) != other)
  assert np.any(first != np.arange(100))


def test_any_step_from_its_number_alone():
  order = data.Shuffled(50, 7, 3)
  forward = [order.indices(step) for step in range(40)]
  fresh = [data.Shuffled(50, 7, 3).indices(step) for step in reversed(range(40))][::-1]
  np.testing.assert_array_equal(forward, fresh)


def test_the_order_stays_the_same_between_releases():
  # A checkpoint resumed by another version goes on with the same examples.
  assert data.Shuffled(10, 5, 42).indices(1000).tolist() == ORDER_OF_STEP_1000


# python -c "from tatnet.training import data; print(data.Shuffled(10, 5, 42).indices(1000))"
ORDER_OF_STEP_1000 = [7, 6, 9, 2, 1]


def test_a_changed_batch_does_not_change_the_order():
  order = data.Shuffled(10, 5, 0)
  expected = order.indices(0).tolist()
  order.indices(0)[:] = -1
  assert order.indices(0).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_parts_make_the_batch(count):
  whole = data.Shuffled(50, 12, 5)
  parts = [whole.shard(index, count) for index in range(count)]
  for step in (0, 3, 4, 11):
    together = np.concatenate([part.indices(step) for part in parts])
    np.testing.assert_array_equal(together, whole.indices(step))
    drawn = np.concatenate([part.numbers(step, 5) for part in parts])
    np.testing.assert_array_equal(drawn, whole.numbers(step, 5))


@given(st.integers(1, 100), st.integers(1, 12), st.integers(1, 4))
def test_evaluation_counts_each_example_once(num_examples, local, count):
  parts = [
    list(data.evaluation_batches(num_examples, local * count, (i, count))) for i in range(count)
  ]
  assert len({len(part) for part in parts}) == 1
  counted = []
  for batches in zip(*parts, strict=True):
    for batch in batches:
      assert batch.indices.shape == batch.mask.shape == (local,)
      assert batch.indices.max() < num_examples
      counted += batch.indices[batch.mask].tolist()
  assert counted == list(range(num_examples))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((10, 11, 0), "batch_size=11 of 10 examples"),
    ((0, 1, 0), "expected positive numbers"),
    ((10, 0, 0), "expected positive numbers"),
    ((10, 5, -1), "seed=-1"),
    ((10, 5, 0, (0, 2)), "batch_size=5 on 2 processes"),
    ((10, 5, 0, (5, 5)), "Process 5 of 5"),
  ],
)
def test_bad_sizes(arguments, message):
  with pytest.raises(ValueError, match=message):
    data.Shuffled(*arguments)


def test_bad_step_and_evaluation():
  with pytest.raises(ValueError, match="step=-1"):
    data.Shuffled(10, 5, 0).indices(-1)
  with pytest.raises(ValueError, match="on 3 processes"):
    data.evaluation_batches(10, 4, (0, 3))  # before the first batch is asked for
