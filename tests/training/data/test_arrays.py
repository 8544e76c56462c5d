"""Small data sets as arrays: their contents, what is said when they are missing, no TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets
from prepared_data import DATA

from tatnet.training import data

needs_shared = pytest.mark.skipif(
  not DATA.is_dir(), reason=f"no prepared data in {DATA}; see the project's README"
)


def test_digits_are_those_of_scikit_learn():
  bunch = sklearn.datasets.load_digits()
  both = [data.load_arrays("digits", split) for split in ("train", "test")]
  assert [len(labels) for _, labels in both] == [1437, 360]
  images = np.concatenate([images for images, _ in both])
  labels = np.concatenate([labels for _, labels in both])
  assert images.shape == (1797, 8, 8, 1)
  assert images.dtype == np.uint8
  assert labels.dtype == np.int32
  assert images.max() == 255

  def rows(pixels, targets):
    pixels = pixels.reshape(1797, 64).tolist()
    return sorted((int(t), *p) for p, t in zip(pixels, targets, strict=True))

  assert rows(np.round(images / 255 * 16), labels) == rows(bunch.images, bunch.target)


def test_digits_are_split_the_same_every_time():
  first, again = (data.load_arrays("digits", "test") for _ in range(2))
  np.testing.assert_array_equal(first[0], again[0])
  assert first[1][:10].tolist() == FIRST_TEST_DIGITS
  assert np.bincount(first[1]).min() > 20  # a permutation, not the end of the files


# python -c "from tatnet.training import data; print(data.load_arrays('digits', 'test')[1][:10])"
FIRST_TEST_DIGITS = [9, 1, 0, 1, 0, 8, 4, 3, 6, 2]


def assert_statistics(name, images):
  """The constants that normalise are those of the images; exact, from histograms."""
  values = np.arange(256) / 255
  for channel in range(images.shape[-1]):
    share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
    mean = share @ values
    np.testing.assert_allclose(data.STATISTICS[name].mean[channel], mean, atol=6e-5)
    std = np.sqrt(share @ (values - mean) ** 2)
    np.testing.assert_allclose(data.STATISTICS[name].std[channel], std, atol=6e-5)


def test_statistics_of_digits():
  assert_statistics("digits", data.load_arrays("digits", "train")[0])


@needs_shared
def test_cifar10_is_complete():
  images, labels = data.load_arrays("cifar10", "train", DATA)
  assert images.shape == (50000, 32, 32, 3)
  assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
  np.testing.assert_array_equal(np.bincount(labels), np.full(10, 5000))
  # The published means of the training set's red, green and blue.
  np.testing.assert_allclose(images.mean((0, 1, 2)), [125.307, 122.950, 113.865], atol=2e-3)
  assert_statistics("cifar10", images)


@needs_shared
def test_mnist_is_complete():
  images, labels = data.load_arrays("mnist", "train", str(DATA))
  assert images.shape == (60000, 28, 28, 1)
  assert np.bincount(labels).tolist() == [
    *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
  ]
  assert_statistics("mnist", images)


@needs_shared
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_pixels_are_those_that_tfds_decodes(name):
  import tensorflow_datasets as tfds

  source = tfds.data_source(name, data_dir=DATA, split="test", download=False)
  images, labels = data.load_arrays(name, "test", DATA)
  assert len(images) == 10000
  for i in (0, 1, 999, 1000, 5432, 9999):  # both sides of a piece that is read at once
    np.testing.assert_array_equal(images[i], source[i]["image"])
    assert labels[i] == source[i]["label"]


@needs_shared
def test_part_of_a_split():
  images, labels = data.load_arrays("mnist", "test[:1%]", DATA)
  whole, _ = data.load_arrays("mnist", "test", DATA)
  np.testing.assert_array_equal(images, whole[:100])
  assert len(labels) == 100


@needs_shared
def test_unknown_split():
  with pytest.raises(ValueError, match=r"split='validation'; .* has 'test', 'train'"):
    data.load_arrays("cifar10", "validation", DATA)
  with pytest.raises(ValueError, match="'train' and 'test'"):
    data.load_arrays("digits", "validation")


def test_unknown_name():
  with pytest.raises(ValueError, match="name='cifar'; expected one of 'digits', 'mnist'"):
    data.load_arrays("cifar", "train")


def test_missing_data_names_folder_and_command(tmp_path):
  with pytest.raises(data.DataNotPrepared) as error:
    data.load_arrays("cifar10", "train", tmp_path)
  message = str(error.value)
  assert isinstance(error.value, FileNotFoundError)
  assert f"no prepared 'cifar10' in {tmp_path}" in message
  assert (
    'pip install tensorflow && python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record')"
    '.download_and_prepare()"'
  ) in message
  assert list(tmp_path.iterdir()) == []  # nothing is downloaded unasked


def test_missing_data_in_the_default_folder(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
  with pytest.raises(data.DataNotPrepared, match=r"builder\('mnist', file_format='array_record'\)"):
    data.load_arrays("mnist", "train")


def test_data_in_another_format_is_said_to_be(tmp_path):
  folder = tmp_path / "mnist" / "3.0.1"
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text("{}")
  (folder / "mnist-train.tfrecord-00000-of-00001").touch()
  with pytest.raises(data.DataNotPrepared, match=r"3\.0\.1 is not in the ArrayRecord format"):
    data.load_arrays("mnist", "train", tmp_path)


def test_tensorflow_is_not_imported(tmp_path):
  code = f"""
import pathlib, sys
from tatnet.training import data
shared = pathlib.Path({str(DATA)!r})
data.load_arrays("digits", "test")
if shared.is_dir():
  data.load_arrays("mnist", "test[:1%]", shared)
  source = data.TfdsImages("imagenet2012", "validation[:1%]", shared)
  with data.image_batches(source, 4, 0, train=True, num_workers=0, size=32) as batches:
    next(batches)
try:
  data.load_arrays("cifar100", "train", {str(tmp_path)!r})
except data.DataNotPrepared:
  print("tensorflow" in sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["False"]
  assert "TensorFlow" not in done.stderr
