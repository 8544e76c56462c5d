"""The parts of the trainer: state, step, evaluation, optimisers, metrics, curves."""

import json
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tatnet
from tatnet import training

LOSS = tatnet.optim.SoftmaxCrossEntropy()
RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(32, 6)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, 32))
BATCH = {"image": IMAGES, "label": LABELS}


def small(**options):
  settings = {"width": 16, "depth": 3, "activation": "tanh", "method": tatnet.DKS()}
  return tatnet.nets.create("mlp", 3, **(settings | options))


def train(optimizer, steps, network=None, **options):
  network = network or small()
  state = training.create_state(
    network, optimizer, jax.random.key(0), IMAGES, with_average="average_decay" in options
  )
  step = training.make_train_step(network, LOSS, optimizer, **options)
  losses = []
  for _ in range(steps):
    state, metrics = step(state, BATCH)
    losses.append(float(metrics["loss"]))
  return state, metrics, losses


@pytest.mark.parametrize("name", ["sgd", "adam", "lars", "kfac", "muon"])
def test_every_optimizer_learns(name):
  rate = {"sgd": 0.05, "adam": 3e-3, "lars": 5.0, "kfac": 1e-3, "muon": 1e-2}[name]
  settings = training.OptimizerSettings(name, rate, damping=1e-2, burn_in=2, inverse_every=5)
  _, _, losses = train(training.make_optimizer(settings, 40), 40)
  assert losses[-1] < 0.8 * losses[0]


def test_kfac_that_finds_its_own_rates_learns_and_tells_them():
  settings = training.OptimizerSettings("adaptive-kfac", burn_in=2)
  state, metrics, losses = train(training.make_optimizer(settings, 15), 15)
  assert losses[-1] < 0.1 * losses[0]
  for name in ("learning_rate", "momentum", "damping", "reduction_ratio", "expected_change"):
    assert metrics[name] == getattr(state.optimizer_state, name)
  assert [settings.factors_due(step) for step in range(4)] == [True] * 4


def test_a_step_is_that_of_plain_optax():
  network, optimizer = small(), optax.sgd(0.1)
  state = training.create_state(network, optimizer, jax.random.key(0), IMAGES)
  params = jax.tree.map(jnp.copy, state.params)

  def loss(params):
    logits, _ = network.apply(params, {}, None, IMAGES)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

  expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
  state, metrics = training.make_train_step(network, LOSS, optimizer)(state, BATCH)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, expected)
  assert math.isclose(metrics["loss"], loss(params), rel_tol=1e-5)
  assert math.isclose(metrics["gradient_norm"], 10 * float(metrics["update_norm"]), rel_tol=1e-4)


def test_the_state_is_consumed_and_keeps_its_structure():
  network, optimizer = small(), tatnet.kfac(1e-3)
  state = training.create_state(network, optimizer, jax.random.key(0), IMAGES)
  before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
  new, _ = training.make_train_step(network, LOSS, optimizer)(state, BATCH)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == before
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("with_average", [False, True])
def test_an_average_needs_a_decay_and_a_decay_an_average(with_average):
  network, optimizer = tatnet.nets.create("mlp", 10, width=8, depth=13), optax.sgd(0.1)
  images = jnp.ones([4, 5])
  state = training.create_state(
    network, optimizer, jax.random.key(0), images, with_average=with_average
  )
  step = training.make_train_step(
    network, LOSS, optimizer, average_decay=None if with_average else 0.9
  )
  with pytest.raises(ValueError, match="with_average=True"):
    step(state, {"image": images, "label": jnp.zeros(4, int)})


def test_the_average_follows_the_parameters():
  network, optimizer = small(), optax.sgd(0.1)
  state = training.create_state(network, optimizer, jax.random.key(0), IMAGES, with_average=True)
  average = jax.tree.map(np.asarray, state.params)
  step = training.make_train_step(network, LOSS, optimizer, average_decay=0.75)
  for _ in range(3):
    state, _ = step(state, BATCH)
    params = jax.tree.map(np.asarray, state.params)
    average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.average, average)
  assert training.parameters_to_evaluate(state) is state.average


def test_steps_draw_new_numbers_and_runs_repeat():
  network = small(dropout_rate=0.5)
  optimizer = optax.sgd(0.0)  # only dropout tells the steps apart
  _, _, losses = train(optimizer, 3, network)
  assert len(set(losses)) == 3
  assert train(optimizer, 3, network)[2] == losses


def test_factors_are_computed_when_they_are_due():
  optimizer = tatnet.kfac(1e-3, factors_every=3, burn_in=0)
  state, _, _ = train(optimizer, 7)
  assert int(state.optimizer_state[0].batches) == 3  # on steps 1, 4 and 7


def test_evaluation_counts_each_example_once():
  network = small()
  params, state = network.initialize(jax.random.key(0), IMAGES)
  logits, _ = network.apply(params, state, None, IMAGES)
  expected = float(jnp.mean(logits.argmax(-1) == LABELS))

  def batches(size):
    for start in range(0, 32, size):
      take = np.arange(start, start + size)
      image = np.asarray(IMAGES)[take % 32].copy()
      image[take >= 32] = np.nan  # padding may hold anything
      yield {"image": image, "label": np.asarray(LABELS)[take % 32], "mask": take < 32}

  evaluate = training.make_evaluation(network)
  for size in (32, 5, 7):
    result = evaluate(params, state, batches(size))
    assert result.count == 32
    assert math.isclose(result.accuracy, expected, rel_tol=1e-6)
    assert math.isclose(result.loss, LOSS.per_example(logits, LABELS).mean(), rel_tol=1e-5)
  with pytest.raises(ValueError, match="no batches"):
    evaluate(params, state, [])


def test_weights_decay_and_the_rest_does_not():
  network = tatnet.nets.create("cifar_resnet8-bn", 10)
  params, _ = jax.eval_shape(
    network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  )
  for path, decays in jax.tree.leaves_with_path(training.are_weights(params)):
    assert decays == (path[-1].key == "w")


def test_unknown_schedule():
  with pytest.raises(ValueError, match=r"'linear'; expected one of cosine, constant, steps"):
    training.learning_rate_schedule(training.OptimizerSettings(schedule="linear"), 10)


def test_schedules():
  settings = training.OptimizerSettings(learning_rate=2.0, warmup_steps=4, schedule="steps")
  rate = training.learning_rate_schedule(settings, 104)
  values = [float(rate(step)) for step in (0, 2, 4, 63, 65, 83, 85)]
  np.testing.assert_allclose(values, [0, 1, 2, 2, 0.2, 0.2, 0.02], rtol=1e-5)
  with pytest.raises(ValueError, match="fewer steps of warm-up"):
    training.learning_rate_schedule(settings, 4)


def test_unknown_optimizer():
  settings = training.OptimizerSettings("adagrad")
  with pytest.raises(ValueError, match="expected one of sgd"):
    training.make_optimizer(settings, 10)


def test_muon_orthogonalises_the_updates_of_hidden_weights():
  settings = training.OptimizerSettings("muon", 1.0, schedule="constant")
  optimizer = training.make_optimizer(settings, 10)
  params = {"layer": {"w": jnp.zeros([3, 3, 8, 16]), "b": jnp.zeros(16)}}
  gradients = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  values = np.linalg.svd(np.asarray(updates["layer"]["w"]).reshape(72, 16), compute_uv=False)
  assert values.max() / values.min() < 2  # five Newton-Schulz steps bring them near 1


def test_metrics_survive_a_cut_and_a_resume(tmp_path):
  with training.MetricsWriter(tmp_path) as writer:
    for step in range(1, 6):
      writer.write(step, {"loss": 1.0 / step})
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 6, "lo')  # killed while writing
  assert [row["step"] for row in training.read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
  with training.MetricsWriter(tmp_path, resume_from=3) as writer:
    writer.write(4, {"loss": 0.5})
  assert [row["step"] for row in training.read_metrics(tmp_path)] == [1, 2, 3, 4]
  assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["loss"] == 0.5


def test_curves_of_a_folder_without_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl"):
    training.plot_runs({"run": tmp_path}, tmp_path / "curves.png")


def test_batch_norm_state_is_carried():
  network = tatnet.nets.create("cifar_resnet8-bn", 3)
  images = jnp.asarray(RNG.normal(size=(8, 8, 8, 3)), jnp.float32)
  optimizer = optax.sgd(0.01)
  state = training.create_state(network, optimizer, jax.random.key(0), images)
  before = jax.tree.map(np.asarray, state.network_state)
  step = training.make_train_step(network, LOSS, optimizer)
  state, _ = step(state, {"image": images, "label": LABELS[:8]})
  changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state.network_state)
  assert all(jax.tree.leaves(changed))


def test_a_haiku_model_of_ones_own():
  network = hk.transform_with_state(
    lambda x, is_training: hk.nets.MLP([16, 3])(x) + 0.0 * is_training
  )
  _, _, losses = train(tatnet.kfac(1e-2, damping=1e-2, burn_in=2), 20, network)
  assert losses[-1] < losses[0]


def test_tensorboard_has_the_same_numbers(tmp_path):
  from tensorboardX.proto.event_pb2 import Event

  with training.MetricsWriter(tmp_path) as writer:
    writer.write(1, {"loss": 2.5})
    writer.write(2, {"loss": 0.5, "accuracy": 0.25})
  (file,) = (tmp_path / "tensorboard").iterdir()
  content, place, found = file.read_bytes(), 0, []
  while place < len(content):  # a record: its length, a checksum, itself, a checksum
    length = int.from_bytes(content[place : place + 8], "little")
    event = Event.FromString(content[place + 12 : place + 12 + length])
    found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    place += length + 16
  assert found == [(1, "loss", 2.5), (2, "loss", 0.5), (2, "accuracy", 0.25)]


def test_drops_of_a_short_run():
  """Two that fall on one step both count."""
  settings = training.OptimizerSettings(
    learning_rate=1.0, schedule="steps", drops=(0.5, 0.51), drop_factor=0.5
  )
  rate = training.learning_rate_schedule(settings, 10)
  np.testing.assert_allclose([rate(4), rate(6)], [1.0, 0.25])
  with pytest.raises(ValueError, match="between 0 and 1"):
    training.learning_rate_schedule(training.OptimizerSettings(drops=(30_000,)), 10)


def test_the_host_and_the_device_agree_on_when_factors_are_due():
  settings = training.OptimizerSettings("kfac", 1e-3, factors_every=3, burn_in=2, damping=1e-2)
  optimizer = training.make_optimizer(settings, 20)
  network = small()
  state = training.create_state(network, optimizer, jax.random.key(0), IMAGES)
  step = training.make_train_step(network, LOSS, optimizer)
  for number in range(9):
    due = settings.factors_due(number)
    assert due == bool(tatnet.optim.factors_due(state.optimizer_state))
    before = int(state.optimizer_state[0].batches)
    state, _ = step(state, BATCH, refresh=due)
    assert int(state.optimizer_state[0].batches) == before + due


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_a_label_that_is_no_class_is_not_trained_on_in_silence(caplog, label):
  labels = LABELS.at[5].set(label)
  network, optimizer = small(), optax.sgd(0.1)
  state = training.create_state(network, optimizer, jax.random.key(0), IMAGES)
  batch = {"image": IMAGES, "label": labels}
  evaluated = [{**batch, "mask": jnp.ones(32, bool)}]
  result = training.make_evaluation(network)(state.params, state.network_state, evaluated)
  assert math.isnan(result.loss)
  assert "1 of 32 labels are none of the network's classes" in caplog.text
  masked = [{**batch, "mask": jnp.arange(32) != 5}]
  assert math.isfinite(
    training.make_evaluation(network)(state.params, state.network_state, masked).loss
  )
  _, metrics = training.make_train_step(network, LOSS, optimizer)(state, batch)
  assert math.isnan(metrics["loss"])
