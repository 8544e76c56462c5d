"""Sources of encoded images."""

import pathlib
import pickle

import numpy as np
import PIL.Image
import pytest
from prepared_data import DATA

from tatnet.training import data

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"no prepared data in {DATA}")


def save(path, colour=(10, 20, 30), size=(12, 9)):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
  save(tmp_path / "dog" / "b.png", (1, 2, 3))
  save(tmp_path / "dog" / "a.JPEG")
  save(tmp_path / "cat" / "z.jpg")
  (tmp_path / ".git").mkdir()
  (tmp_path / "notes.txt").write_text("beside the classes, where it does no harm")
  (tmp_path / "cat" / "Thumbs.db").touch()
  return tmp_path


def test_classes_and_files_are_in_alphabetical_order(folder):
  source = data.ImageFolder(folder)
  assert source.classes == ("cat", "dog")
  assert source.num_classes == 2
  assert [source[i].label for i in range(len(source))] == [0, 1, 1]
  assert [pathlib.Path(source.describe(i)).name for i in range(3)] == ["z.jpg", "a.JPEG", "b.png"]
  np.testing.assert_array_equal(data.decode_image(source[2].encoded)[0, 0], (1, 2, 3))
  copy = pickle.loads(pickle.dumps(source))
  assert [copy[i] for i in range(3)] == [source[i] for i in range(3)]


def test_classes_of_another_folder(folder, tmp_path_factory):
  other = tmp_path_factory.mktemp("validation")
  save(other / "dog" / "1.png")
  labels = [data.ImageFolder(other, classes=c)[0].label for c in (None, ("cat", "dog"))]
  assert labels == [0, 1]
  with pytest.raises(ValueError, match=r"dog is none of the classes \['cat', 'mouse'\]"):
    data.ImageFolder(other, classes=("cat", "mouse"))


def test_folders_that_make_no_sense(tmp_path):
  with pytest.raises(FileNotFoundError, match="is not a folder"):
    data.ImageFolder(tmp_path / "missing")
  with pytest.raises(ValueError, match=r"0 sub-folder\(s\) and 0 image"):
    data.ImageFolder(tmp_path)
  save(tmp_path / "train" / "cat" / "1.png")
  with pytest.raises(ValueError, match=r"such as 'cat'.*if it holds the classes, give its path"):
    data.ImageFolder(tmp_path)
  root = tmp_path / "train"
  (root / "dog").mkdir()
  with pytest.raises(ValueError, match="dog has no images"):
    data.ImageFolder(root)
  (root / "dog" / "2.webp").touch()
  with pytest.raises(ValueError, match=r"1 other file.*'2\.webp'; expected only \.jpg"):
    data.ImageFolder(root)
  save(root / "3.png")
  with pytest.raises(ValueError, match=r"2 sub-folder\(s\) and 1 image\(s\) beside"):
    data.ImageFolder(root)


@needs_shared
def test_imagenet_records_stay_encoded():
  source = data.TfdsImages("imagenet2012", "train", DATA)
  assert len(source) == 3000
  assert source.num_classes == 1000
  assert source[0].encoded[:2] == b"\xff\xd8"
  assert type(source[0].label) is int
  labels = [source[i].label for i in range(0, 3000, 10)]
  assert len(set(labels)) == 10
  copy = pickle.loads(pickle.dumps(source))
  assert copy[7] == source[7]
  assert "record 7 of 'train' in" in source.describe(7)
  assert len(data.TfdsImages("imagenet2012", "validation[:10%]", DATA)) == 80


@needs_shared
def test_imagenet_pixels_are_those_that_tfds_decodes():
  import tensorflow_datasets as tfds

  source = data.TfdsImages("imagenet2012", "validation", DATA)
  reference = tfds.data_source("imagenet2012", data_dir=DATA, split="validation", download=False)
  for i in (0, 1, 799):
    np.testing.assert_array_equal(data.decode_image(source[i].encoded), reference[i]["image"])
    assert source[i].label == reference[i]["label"]


def test_missing_imagenet_says_where_its_archives_go(tmp_path):
  with pytest.raises(data.DataNotPrepared, match=r"(?s)imagenet2012.*downloads/manual"):
    data.TfdsImages("imagenet2012", "train", tmp_path)
