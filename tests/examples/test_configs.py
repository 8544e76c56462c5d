"""Every config for a few steps, on random images and on the user's own, and what goes wrong."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from tatnet import training

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
  """The module examples/train.py; programs that run twice are not worth optimising."""
  monkeypatch.syspath_prepend(str(EXAMPLES))
  import train

  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield train
  jax.config.update("jax_disable_most_optimizations", before)


def small(example, name, folder, **options):
  """A config on random data with a network that compiles fast, for two steps."""
  config = example.CONFIGS[name][1]
  settings = {"network": "mlp", "depth": 3, "width": 8, "activation": "tanh", "method": "dks"}
  settings |= {"steps": 2, "batch_size": 8, "image_size": 16, "burn_in": 0, "contrast": ()}
  settings |= {"factors_every": 1}
  if config.heads:  # an MLP knows nothing of tokens
    settings |= {"network": config.network, "depth": 1, "heads": 2}
  settings |= {"warmup_steps": 0, "shortcut": None, "fake_data": True, "out": str(folder / "run")}
  return config.replaced(**(settings | options))


NAMES = (
  *("digits", "mnist", "cifar10", "cifar100", "imagenet"),
  *("folder", "cifar10-identity", "imagenet-identity", "cifar10-modified"),
  *("text", "digits-vit", "cifar10-vit"),
)


def test_every_config_is_tried(example):
  assert set(NAMES) == set(example.CONFIGS)


@pytest.mark.parametrize("name", NAMES)
def test_config_runs(example, tmp_path, capsys, name):
  (row,) = example.main(small(example, name, tmp_path))
  assert row.result.count == {"digits": 500}.get(name, row.result.count)
  assert np.isfinite(row.result.loss)
  saved = json.loads((tmp_path / "run" / "config.json").read_text())
  assert saved["learning_rate"] > 0  # whatever was resolved
  assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_configs_exist(example, name):
  """What the runs above replace by something smaller."""
  import loop

  config = example.CONFIGS[name][1]
  for each in (config, *map(config.contrasted, config.contrast)):
    network = loop.build(each.resolved(), 10)
    assert network.name == each.network


def test_text_ends_with_bits_and_a_sample(example, tmp_path, capsys):
  (row,) = example.main(small(example, "text", tmp_path, context=16))
  said = capsys.readouterr().out
  assert f"{row.result.loss / np.log(2):.3f} bits per character" in said
  written = (tmp_path / "run" / "sample.txt").read_text()
  assert written.startswith("def ")
  assert len(written) == 400


def test_baselines_of_transformers_take_a_method_unless_they_bring_an_activation(example):
  import loop

  config = example.CONFIGS["digits-vit"][1]
  slopes = [
    loop.build(
      config.replaced(network="vision_transformer-shaped", eta=eta).resolved(), 10
    ).activation.negative_slope
    for eta in (0.5, 0.7)
  ]
  assert slopes[0] > slopes[1]  # nearer to the identity, where eta is small
  prenorm = config.replaced(network="vision_transformer-prenorm", eta=0.7).resolved()
  assert loop.build(prenorm, 10).activation is jax.nn.gelu


def test_queries_of_zero_are_not_for_kfac(example):
  import loop

  config = example.CONFIGS["text"][1]
  scales = {
    optimizer: loop.build(config.replaced(optimizer=optimizer).resolved(), 10).options[
      "query_scale"
    ]
    for optimizer in ("adam", "kfac", "adaptive-kfac")
  }
  assert scales == {"adam": 0.0, "kfac": 0.01, "adaptive-kfac": 0.01}


@pytest.mark.parametrize("optimizer", ["kfac", "adaptive-kfac"])
@pytest.mark.parametrize("baseline", ["", "-shaped", "-prenorm"])
def test_either_kfac_moves_every_parameter_of_a_transformer(example, tmp_path, baseline, optimizer):
  """Its positions as a layer, and the gains of attention, which are none, by Adam."""
  import loop

  options = {"network": f"vision_transformer{baseline}", "optimizer": optimizer}
  options |= {"steps": 4, "burn_in": 1, "depth": 2}
  parts = loop.assemble(small(example, "digits-vit", tmp_path, **options).resolved())
  state = parts.initial()
  before = jax.tree.map(np.asarray, state.params)
  batches = parts.inputs.batches(0)
  for _ in range(4):
    state, _ = parts.step(state, next(batches), refresh=True)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, state.params)
  assert all(jax.tree.leaves(moved)), moved
  if baseline == "-shaped":
    assert any("identity_gain" in arrays for arrays in moved.values())


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"context": None}, "--context; expected a number of characters"),
    ({"dropout_rate": 0.1}, "--dropout-rate 0.1 with a transformer"),
  ],
)
def test_text_says_what_it_needs(example, tmp_path, options, said):
  with pytest.raises(example.endings.Ended, match=said):
    example.main(small(example, "text", tmp_path, **options))


def test_schedules_of_the_papers(example):
  """Hardt & Ma: 0.05, a tenth at 30,000 and 50,000 steps; MacDonald: a fifth every 30 epochs."""

  def rates(name, steps):
    config = example.CONFIGS[name][1].resolved()
    rate = training.learning_rate_schedule(config.optimizer_settings, config.steps)
    return [float(rate(step)) for step in steps]

  hardt = rates("cifar10-identity", (0, 29_999, 30_001, 49_999, 50_001))
  np.testing.assert_allclose(hardt, [0.05, 0.05, 0.005, 0.005, 0.0005], rtol=1e-5)
  epochs = [390 * epoch + 1 for epoch in (0, 29, 30, 59, 60, 89)]
  macdonald = rates("cifar10-modified", epochs)
  np.testing.assert_allclose(macdonald, [0.1, 0.1, 0.02, 0.02, 0.004, 0.004], rtol=1e-5)
  first, after_two_epochs = rates("imagenet-identity", (0, 10_001))
  assert first == pytest.approx(0.1)
  assert after_two_epochs == pytest.approx(0.094)


def test_ones_own_optimizer_has_its_own_learning_rate(example):
  config = example.CONFIGS["cifar10"][1]
  rates = {
    name: config.replaced(optimizer=name).resolved().learning_rate
    for name in ("sgd", "adam", "lars", "kfac", "muon")
  }
  assert rates["sgd"] > rates["adam"] > rates["kfac"]
  assert config.replaced(learning_rate=7.0).resolved().learning_rate == 7.0
  own = config.replaced(learning_rate=7.0)
  assert own.contrasted("mlp-eoc").learning_rate == 7.0
  assert own.contrasted("mlp-eoc:sgd").resolved().learning_rate == rates["sgd"]
  assert own.contrasted("mlp-eoc:sgd:0.3").resolved().learning_rate == 0.3


@pytest.fixture
def folder(tmp_path):
  """Two classes, black and white, with an image that is cut off in each part."""
  for part, count in (("train", 12), ("test", 5)):
    for name, grey in (("black", 0), ("white", 255)):
      (tmp_path / part / name).mkdir(parents=True)
      for i in range(count):
        path = tmp_path / part / name / f"{i}.png"
        PIL.Image.new("RGB", (20, 24), (grey,) * 3).save(path)
    path.write_bytes(path.read_bytes()[:40])
  return tmp_path


def test_a_folder_of_images(example, folder, capsys, caplog):
  config = small(
    *(example, "imagenet", folder),
    **{"data": str(folder), "fake_data": False, "optimizer": "adam", "steps": 30},
    **{"learning_rate": 1e-2, "label_smoothing": 0.0, "dropout_rate": 0.0},
    average_decay=0.5,
  )
  (row,) = example.main(config)
  assert row.result.count == 9  # of ten images, one cannot be read
  assert row.result.accuracy == 1.0
  assert "1 unreadable training images" in capsys.readouterr().err
  assert caplog.text.count("Unreadable image") == 2


def test_a_folder_that_is_none(example, tmp_path):
  with pytest.raises(SystemExit, match="none of digits, mnist"):
    example.main(small(example, "imagenet", tmp_path, data=str(tmp_path), fake_data=False))


def test_data_that_is_not_prepared(example, tmp_path):
  config = small(example, "cifar10", tmp_path, fake_data=False, data_dir=str(tmp_path))
  with pytest.raises(SystemExit, match="download_and_prepare"):
    example.main(config)


def test_a_loss_that_is_not_finite_stops_the_run(example, tmp_path):
  config = small(
    *(example, "digits", tmp_path),
    **{"network": "mlp-eoc", "optimizer": "sgd", "learning_rate": 1e17, "steps": 9},
    **{"schedule": "constant", "checkpoint_every": 1},
  )
  with pytest.raises(SystemExit) as stop:
    example.main(config)
  message = str(stop.value)
  saved = training.Checkpoints(tmp_path / "run" / "checkpoints")
  step = saved.steps()[-1]
  assert f"the last good checkpoint is of step {step}" in message
  assert f"at step {step + 1}, learning rate 1e+17" in message


def test_a_contrast_that_diverges_is_a_row(example, tmp_path, capsys):
  contrast = ("mlp-eoc:sgd:1e17",)
  options = {"optimizer": "adam", "learning_rate": 1e-3, "steps": 4, "schedule": "constant"}
  first, second = example.main(small(example, "digits", tmp_path, contrast=contrast, **options))
  assert first.result.count == 500
  assert second.result is None
  assert "diverged" in capsys.readouterr().out


def test_a_full_disk_stops_the_run(example, tmp_path, monkeypatch):
  """Everything written before stays, and the message says so."""
  config = small(example, "digits", tmp_path, steps=6, checkpoint_every=2, optimizer="adam")
  save = training.Checkpoints._write

  def full(self, target, state):
    if target.name == "4":
      raise OSError(28, "No space left on device")
    save(self, target, state)

  monkeypatch.setattr(training.Checkpoints, "_write", full)
  with pytest.raises(SystemExit, match=r"(?s)No space left on device.*step 2 is intact"):
    example.main(config)
  monkeypatch.undo()
  monkeypatch.syspath_prepend(str(EXAMPLES))
  (row,) = example.main(config.replaced(resume=True))
  assert row.result.count == 500


def test_half_precision(example, tmp_path):
  """Computation in bfloat16, K-FAC's factors and the parameters in float32."""
  config = small(example, "cifar10", tmp_path, precision="bfloat16", seed=3)
  import haiku as hk
  import loop

  try:
    parts = loop.assemble(config.resolved())
    state = parts.initial()
    batch = next(parts.inputs.batches(0))
    state, metrics = parts.step(state, batch, refresh=True)
    dtypes = {
      str(leaf.dtype)
      for leaf in (*jax.tree.leaves(state.params), *jax.tree.leaves(state.optimizer_state))
    }
    assert dtypes <= {"float32", "int32", "bool"}
    assert jnp.isfinite(metrics["loss"])
    lowered = parts.step.lower(state, batch, refresh=True).as_text()
    assert "bf16" in lowered
  finally:
    hk.mixed_precision.clear_policy(parts.network.module)


def test_a_batch_larger_than_the_data(example, tmp_path):
  with pytest.raises(SystemExit, match="batch_size=5000 of 2048"):
    example.main(small(example, "mnist", tmp_path, batch_size=5000))


def test_a_run_in_parts(example, tmp_path):
  """--stop-after takes that many steps each time, and the last part evaluates."""
  config = small(example, "digits", tmp_path, steps=5, optimizer="adam", stop_after=2)
  for step in (2, 4):
    with pytest.raises(SystemExit, match=f"saved at step {step}"):
      example.main(config.replaced(resume=step > 2))
  (row,) = example.main(config.replaced(resume=True))
  assert row.result.count == 500
  steps = [row["step"] for row in training.read_metrics(tmp_path / "run") if "loss" in row]
  assert steps == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
  ("contrast", "message"),
  [("mlp-eocc", "Did you mean"), ("mlp-eoc:sdg", "optimizer 'sdg'; expected one of sgd")],
)
def test_a_contrast_is_checked_before_the_first_run(example, tmp_path, contrast, message):
  with pytest.raises(SystemExit, match=message):
    example.main(small(example, "digits", tmp_path, contrast=(contrast,)))
  assert not (tmp_path / "run").exists()


def test_only_the_first_process_looks_whether_the_folder_holds_a_run(
  example, tmp_path, monkeypatch
):
  """To one that comes later, what the first has begun to write is no other run."""
  config = small(example, "digits", tmp_path)
  (tmp_path / "metrics.jsonl").touch()
  with pytest.raises(SystemExit, match="holds a run already"):
    example.folders.check_folder(tmp_path, config, {})
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  example.folders.check_folder(tmp_path, config, {})


def test_a_resume_that_is_refused_leaves_the_config(example, tmp_path):
  config = small(example, "digits", tmp_path, optimizer="adam")
  example.main(config)
  before = (tmp_path / "run" / "config.json").read_text()
  with pytest.raises(SystemExit, match="does not fit the run"):
    example.main(config.replaced(resume=True, width=9))
  assert (tmp_path / "run" / "config.json").read_text() == before


def test_what_changed_since_the_run_began_is_said(example, tmp_path, caplog):
  config = small(example, "digits", tmp_path, optimizer="adam")
  example.main(config)
  example.main(config.replaced(resume=True, steps=3))
  assert "Resumed with another steps: 3, before 2" in caplog.text
  assert caplog.text.count("Resumed with another") == 1
