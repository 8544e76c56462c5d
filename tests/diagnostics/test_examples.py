"""The examples of the diagnostics: the networks of MacDonald et al., and the gallery."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prepared_data import DATA

from tatnet.diagnostics.jacobians import largest_singular_values, singular_values

ROOT = pathlib.Path(__file__).parents[2]


def load(name):
  """An example as a module."""
  spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


skips = load("skip_jacobians")
IMAGES = np.random.default_rng(0).random((32, 28, 28, 1), np.float32)
LABELS = np.arange(32) % 10


@pytest.fixture(scope="module")
def start():
  return skips.initialize(jax.random.key(0), IMAGES)


@pytest.fixture(scope="module")
def signal(start):
  return skips.STEM.apply(start[0]["stem"], IMAGES)


def test_parameters_are_those_of_the_papers_network(start):
  params, _ = start
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(layer))
    for part in params.values()
    for name, layer in part.items()
  }
  assert sizes["stem"] == 5 * 25 + 5
  assert sizes["layer_1"] == sizes["layer_2"] == 5 * 5 * 25 + 5
  assert sizes["layer_3"] == 5 * 20 * 9 + 20
  assert sizes["layer_4"] == 20 * 20 * 9 + 20
  assert sizes["projection"] == 5 * 20 + 20
  assert sizes["logits"] == 320 * 10 + 10
  norms = [sizes[f"norm_{number}"] for number in range(1, 6)]
  assert norms == [10, 10, 10, 40, 640]
  weights = np.asarray(params["rest"]["logits"]["w"])
  assert np.abs(weights).max() <= 320**-0.5
  assert weights.std() == pytest.approx((3 * 320) ** -0.5, rel=0.05)


def test_variants_differ(start, signal):
  params, state = start
  none, convolution, pooling = (
    np.asarray(skips.REST.apply(params["rest"], state, signal, **variant)[0])
    for variant in skips.VARIANTS.values()
  )
  assert not np.allclose(none, convolution, atol=0.1)
  assert not np.allclose(convolution, pooling, atol=0.1)


def test_without_branches_the_third_variant_is_normalised_pooling(start, signal):
  params, state = start
  zero = {"layer_2", "layer_4", "projection"}
  bare = {
    name: jax.tree.map(jnp.zeros_like, layer) if name in zero else layer
    for name, layer in params["rest"].items()
  }
  found = skips.REST.apply(bare, state, signal, shortcuts=True, pooling=True)[0]

  def normalized(x):
    axes = tuple(range(x.ndim - 1))
    return np.maximum((x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5), 0)

  x = normalized(np.asarray(signal, np.float64))
  padded = np.zeros([32, 4, 4, 20])
  padded[..., 7:12] = 3 * x.reshape(32, 4, 3, 4, 3, 5).mean((2, 4))
  last = bare["logits"]
  expected = normalized(padded.reshape(32, 320)) @ np.asarray(last["w"]) + np.asarray(last["b"])
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_singular_values_of_the_whole_batch(start, signal):
  params, state = start
  assert signal.size == 32 * 12 * 12 * 5 == 23_040
  variant = skips.Variant(shortcuts=True, pooling=True, learning_rate=0.1)
  values = singular_values(variant.logits, signal, params, state)
  assert values.shape == (320,)
  largest = largest_singular_values(lambda x: variant.logits(x, params, state), signal, k=2)
  np.testing.assert_allclose(largest.values, values[:2], rtol=1e-3)


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason=f"no prepared MNIST in {DATA}")
def test_shortcuts_train_faster_at_first_on_mnist():
  """On average over the ten trials of docs/diagnostics/skips_and_jacobians.md."""
  images, labels = skips.load_images("mnist", DATA)
  assert images.shape == (32, 28, 28, 1)
  assert 0 <= images.min() < 0.01 < 0.99 < images.max() <= 1
  variants = [skips.Variant(**v, learning_rate=0.1) for v in skips.VARIANTS.values()]
  losses = []
  for trial in range(10):
    start = skips.initialize(jax.random.key(trial), images)
    runs = [v.train(*start, images, labels, epochs=8, measured=0) for v in variants]
    losses.append([loss for loss, _ in runs])
  none, convolution, pooling = np.mean(losses, 0)
  assert np.all(none[[0, 7]] > [2, 0.2])
  assert np.all(convolution[3:] < none[3:])
  assert np.all(pooling[5:] < none[5:])


def test_gallery_draws(tmp_path, monkeypatch, capsys):
  gallery = load("gallery")
  monkeypatch.setattr(sys, "argv", ["gallery.py", "descent", "factors", "--out", str(tmp_path)])
  gallery.main()
  assert {path.name for path in tmp_path.iterdir()} == {"descent.png", "factors.png"}
  assert all(path.stat().st_size > 10_000 for path in tmp_path.iterdir())
  monkeypatch.setattr(sys, "argv", ["gallery.py", "nothing"])
  with pytest.raises(SystemExit):
    gallery.main()
  assert "unknown figures nothing; expected random_walk" in capsys.readouterr().err
