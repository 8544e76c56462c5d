"""Augmentation on the device, against all crops that NumPy can make."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.training import data

NUMPY_MODES = {"zero": "constant", "reflect": "reflect", "edge": "edge"}


def images(count=64, size=8, channels=3, dtype=np.uint8):
  values = np.random.default_rng(0).integers(1, 256, (count, size, size, channels))
  return values.astype(dtype)


def draws(before, after, pad, mode):
  """For each image the one shift and mirroring by which NumPy makes the result."""
  found = []
  size = before.shape[1]
  for image, result in zip(before, np.asarray(after), strict=True):
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=NUMPY_MODES[mode])
    matches = [
      (top, left, flip)
      for top, left, flip in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (0, 1))
      if np.array_equal(padded[top : top + size, left : left + size][:, :: 1 - 2 * flip], result)
    ]
    assert len(matches) == 1
    found.append(matches[0])
  return np.array(found)


@pytest.mark.parametrize("mode", sorted(NUMPY_MODES))
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_image_is_a_crop_of_its_own(mode, dtype):
  before = images(dtype=dtype)
  after = jax.jit(lambda key, x: data.pad_crop_flip(key, x, 2, mode=mode))(
    jax.random.key(0), before
  )
  assert after.dtype == dtype
  found = draws(before, after, 2, mode)
  assert {*found[:, 0]} == {*found[:, 1]} == set(range(5))
  assert {*found[:, 2]} == {0, 1}
  assert len({*map(tuple, found)}) > 25  # independent of each other: 50 are possible


def test_all_shifts_and_mirrorings_are_as_likely():
  before = images(2000, size=4, channels=1, dtype=np.float32)
  before += np.random.default_rng(1).random(before.shape, np.float32)
  found = draws(before, data.pad_crop_flip(jax.random.key(3), before, 1), 1, "zero")
  counts = np.unique(found, axis=0, return_counts=True)[1]
  assert counts.shape == (18,)
  assert np.sum((counts - 2000 / 18) ** 2 / (2000 / 18)) < 41  # chi-square, 17: p = 0.001


def test_key_decides():
  x = images()
  same, again, other = (data.pad_crop_flip(jax.random.key(k), x) for k in (0, 0, 1))
  np.testing.assert_array_equal(same, again)
  assert np.any(same != other)


def test_no_padding_and_no_mirroring_is_nothing():
  np.testing.assert_array_equal(
    data.pad_crop_flip(jax.random.key(0), images(), 0, flip=False), images()
  )


def test_shift_never_mirrors():
  before = images(channels=1)
  found = draws(before, data.shift(jax.random.key(0), before, 1), 1, "zero")
  assert np.all(found[:, 2] == 0)
  assert {*map(tuple, found[:, :2])} == set(itertools.product(range(3), range(3)))


def test_one_compilation_without_a_loop():
  program = jax.jit(data.pad_crop_flip).lower(jax.random.key(0), images()).as_text()
  assert "while" not in program.split("func.func private")[0]


@pytest.mark.parametrize(
  ("x", "arguments", "message"),
  [
    (np.zeros((8, 8, 3)), {}, r"shape \(8, 8, 3\); expected \[batch"),
    (np.zeros((1, 8, 8, 3)), {"mode": "wrap"}, "mode='wrap'; expected one of"),
    (np.zeros((1, 8, 8, 3)), {"pad": -1}, "pad=-1 for images of 8x8"),
    (np.zeros((1, 4, 8, 3)), {"pad": 4, "mode": "reflect"}, "less one"),
  ],
)
def test_bad_arguments(x, arguments, message):
  with pytest.raises(ValueError, match=message):
    data.pad_crop_flip(jax.random.key(0), jnp.asarray(x, jnp.float32), **arguments)
