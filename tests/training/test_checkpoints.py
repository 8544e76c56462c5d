"""Checkpoints: exact round trips, and damage that is noticed."""

import json
import os
import resource
import shutil

import damages
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet import training

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "n": jnp.int32(7), "half": jnp.ones(3, jnp.bfloat16)}
EMPTY = jax.tree.map(jnp.zeros_like, STATE)


def saved(tmp_path, *steps, keep=3):
  checkpoints = training.Checkpoints(tmp_path, keep=keep)
  for step in steps:
    checkpoints.save(step, {**STATE, "n": jnp.int32(step)})
  return checkpoints


def test_the_state_of_kfac_comes_back_bit_for_bit(tmp_path):
  network = tatnet.nets.create("mlp", 3, width=8, depth=2, activation="tanh", method=tatnet.DKS())
  optimizer = tatnet.kfac(1e-2, damping=1e-2, burn_in=1)
  x, y = jnp.ones([4, 5]), jnp.arange(4) % 3
  state = training.create_state(network, optimizer, jax.random.key(0), x)
  step = training.make_train_step(network, tatnet.optim.SoftmaxCrossEntropy(), optimizer)
  for _ in range(3):
    state, _ = step(state, {"image": x, "label": y})
  checkpoints = training.Checkpoints(tmp_path)
  checkpoints.save(3, state)
  number, restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
  assert number == 3
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_the_latest_is_restored_and_old_ones_go(tmp_path):
  checkpoints = saved(tmp_path, 1, 2, 3, keep=2)
  assert checkpoints.steps() == [2, 3]
  step, state = checkpoints.restore(EMPTY)
  assert step == int(state["n"]) == 3


def test_nothing_to_restore(tmp_path):
  assert training.Checkpoints(tmp_path / "none").restore(EMPTY) is None


def damage_by_changing(folder):
  file = max(
    (f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
  )
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 0xFF
  file.write_bytes(bytes(content))


def damage_by_cutting(folder):
  file = max(
    (f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
  )
  file.write_bytes(file.read_bytes()[:-5])


def damage_by_deleting(folder):
  next(f for f in (folder / "state").rglob("*") if f.is_file()).unlink()


def damage_to_the_manifest(folder):
  (folder / "manifest.json").write_text("{")


DAMAGES = [damage_by_changing, damage_by_cutting, damage_by_deleting, damage_to_the_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, damage):
  checkpoints = saved(tmp_path, 1, 2)
  damage(tmp_path / "2")
  step, state = checkpoints.restore(EMPTY)
  assert step == int(state["n"]) == 1
  assert "damaged" in caplog.text
  assert str(tmp_path / "2") in caplog.text


def test_a_half_written_checkpoint_does_not_count(tmp_path):
  checkpoints = saved(tmp_path, 1, 2)
  (tmp_path / "2" / "manifest.json").unlink()  # killed before it was whole
  assert checkpoints.restore(EMPTY)[0] == 1
  checkpoints.save(2, {**STATE, "n": jnp.int32(2)})  # and is written over
  assert checkpoints.restore(EMPTY)[0] == 2


@pytest.fixture
def small_disk():
  """A function after which no file may be longer than a number of bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, small_disk):
  noise = np.random.default_rng(0).normal(size=200_000).astype(np.float32)  # cannot be compressed
  checkpoints = training.Checkpoints(tmp_path)
  checkpoints.save(1, {"w": jnp.asarray(noise)})
  small_disk(100_000)
  with pytest.raises(training.CheckpointNotWritten, match=r"(?s)MB free.*step 1 is intact"):
    checkpoints.save(2, {"w": jnp.asarray(-noise)})
  small_disk(resource.RLIM_INFINITY)
  assert not (tmp_path / "2").exists()
  step, state = checkpoints.restore({"w": jnp.zeros(200_000)})
  assert step == 1
  np.testing.assert_array_equal(state["w"], noise)
  checkpoints.save(2, {"w": jnp.asarray(-noise)})
  assert checkpoints.steps() == [1, 2]


# Orbax gives up at the first array it cannot write; the others report to an event loop that is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_first_checkpoint_on_a_full_disk(tmp_path, small_disk):
  small_disk(10)
  with pytest.raises(training.CheckpointNotWritten, match="There is none"):
    training.Checkpoints(tmp_path).save(1, STATE)


def test_a_checkpoint_of_another_model(tmp_path):
  checkpoints = saved(tmp_path, 1)
  with pytest.raises(ValueError, match="does not fit the run"):
    checkpoints.restore({**EMPTY, "w": jnp.zeros([5, 5])})
  shutil.rmtree(tmp_path / "1")


def test_keep_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match="keep=0"):
    training.Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("how", damages.DAMAGES)
def test_damage_to_any_file_of_a_checkpoint(tmp_path, how):
  saved(tmp_path / "run", 1, 2)
  files = [path for path in (tmp_path / "run" / "2").rglob("*") if path.stat().st_size]
  for number, file in enumerate(path.relative_to(tmp_path) for path in files if path.is_file()):
    copy = tmp_path / str(number)
    shutil.copytree(tmp_path / "run", copy / "run")
    how(copy / file)
    assert training.Checkpoints(copy / "run").latest() == 1, file
  assert number > 3


@pytest.mark.parametrize(
  "change",
  [
    lambda text: text.replace("['w']", "['v']"),
    lambda text: "null",
    lambda text: "[1, 2]",
    lambda text: '{"files": [], "leaves": {}}',
    lambda text: "[" * 100_000,
    lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "digest"}),
  ],
)
def test_a_manifest_that_is_another_is_damage_and_not_another_model(tmp_path, change):
  checkpoints = saved(tmp_path, 1, 2)
  manifest = tmp_path / "2" / "manifest.json"
  manifest.write_text(change(manifest.read_text()))
  assert checkpoints.restore(EMPTY)[0] == 1


def test_what_was_just_written_stays_beside_later_damaged_ones(tmp_path):
  checkpoints = saved(tmp_path, 8, 12)
  for step in (8, 12):
    damage_by_changing(tmp_path / str(step))
  again = training.Checkpoints(tmp_path, keep=1)
  for step in (4, 5):
    again.save(step, {**STATE, "n": jnp.int32(step)})
    assert again.restore(EMPTY)[0] == step
  assert checkpoints.steps() == [5, 8, 12]


def test_damaged_ones_do_not_count_as_kept(tmp_path):
  checkpoints = saved(tmp_path, 1, 2, keep=2)
  damage_by_changing(tmp_path / "2")
  checkpoints.save(3, STATE)
  damage_by_changing(tmp_path / "3")
  assert checkpoints.latest() == 1
  checkpoints.save(4, STATE)
  assert checkpoints.steps() == [1, 2, 3, 4]  # 1 is the second intact one
  checkpoints.save(5, STATE)
  assert checkpoints.steps() == [4, 5]


@pytest.mark.parametrize("how", damages.DAMAGES)
def test_damage_between_two_saves_is_seen_though_the_times_are_put_back(tmp_path, how):
  checkpoints = saved(tmp_path, 1, 2, keep=2)
  file = max((tmp_path / "2").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
  before = file.stat()
  how(file)
  if file.exists():
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
  checkpoints.save(3, STATE)
  assert checkpoints.steps() == [1, 2, 3]


def test_the_same_step_again(tmp_path):
  checkpoints = saved(tmp_path, 1)
  checkpoints.save(1, {**STATE, "n": jnp.int32(9)})
  assert int(checkpoints.restore(EMPTY)[1]["n"]) == 9
  assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("step", [-1, 1.5])
def test_a_step_that_names_no_checkpoint(tmp_path, step):
  with pytest.raises(ValueError, match="expected an integer from 0"):
    training.Checkpoints(tmp_path).save(step, STATE)
