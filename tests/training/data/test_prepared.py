"""Prepared folders that are not what they say they are."""

import io
import shutil

import numpy as np
import PIL.Image
import pytest
from prepared_data import DATA

from tatnet.training import data

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no prepared data in {DATA}")


@pytest.fixture
def folder(tmp_path):
  """A copy of MNIST that may be damaged."""
  (original,) = (DATA / "mnist").iterdir()
  copy = tmp_path / "mnist" / original.name
  copy.mkdir(parents=True)
  for file in original.iterdir():
    shutil.copyfile(file, copy / file.name)
  return copy


def edit(file, old, new):
  text = file.read_text()
  assert old in text
  file.write_text(text.replace(old, new))


def shard(folder):
  return next(folder.glob("*test*array_record*"))


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(bytes(content))


LENGTHS = '"10000"'
DAMAGES = {
  "a missing shard": (lambda f: shard(f).unlink(), "is missing; dataset_info.json names it"),
  "a cut shard": (lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-999]), "is damaged"),
  "an empty shard": (lambda f: shard(f).write_bytes(b""), "is damaged"),
  "a changed shard": (
    lambda f: flip(shard(f)),
    r"record \d+ of 'test' in .*00001, number \d+ there",
  ),
  "too many": (lambda f: edit(f / "dataset_info.json", LENGTHS, '"20000"'), "says 20000"),
  "too few": (lambda f: edit(f / "dataset_info.json", LENGTHS, '"10"'), "has 10000 records"),
  "below none": (lambda f: edit(f / "dataset_info.json", LENGTHS, '"-5"'), "dataset_info.json"),
  "no JSON": (lambda f: (f / "dataset_info.json").write_text("{"), "is damaged"),
  "no object": (lambda f: (f / "dataset_info.json").write_text("null"), "is damaged"),
  "no features": (lambda f: (f / "features.json").unlink(), "features.json is damaged"),
  "null": (lambda f: (f / "features.json").write_text("null"), "features.json is damaged"),
  "an import": (
    lambda f: edit(f / "features.json", "tensorflow_datasets.core.features.class_label", "os"),
    "expected only features of tensorflow_datasets",
  ),
  "a feature outside": (
    lambda f: edit(f / "features.json", '"label": {', '"../label": {'),
    "expected names without folders",
  ),
  "a file outside": (
    lambda f: edit(f / "dataset_info.json", "{DATASET}-{SPLIT}", "../{DATASET}-{SPLIT}"),
    "expected files of this folder",
  ),
  "fewer classes": (
    lambda f: edit(f / "features.json", '"numClasses": "10"', '"numClasses": "5"'),
    r"record \d+ of 'test' in .*: the label \d; expected one of 0 to 4",
  ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_named_in_a_line(folder, what):
  damage, expected = DAMAGES[what]
  damage(folder)
  with pytest.raises(data.DamagedData, match=expected) as error:
    data.load_arrays("mnist", "test", folder.parents[1])
  assert str(folder) in str(error.value)
  assert "\n" not in str(error.value)


def test_damage_that_a_worker_process_meets_is_named_here(folder):
  DAMAGES["fewer classes"][0](folder)
  source = data.TfdsImages("mnist", "test", folder.parents[1])
  with (
    pytest.raises(data.DamagedData, match=r"the label \d; expected one of 0 to 4"),
    data.image_batches(source, 64, 0, train=False, num_workers=2, size=8) as batches,
  ):
    next(batches)


def test_images_of_another_size_name_their_record(monkeypatch):
  from tatnet.training.data import arrays

  def decoded(encoded, channels):
    return np.zeros((28 + (len(encoded) == 100), 28, channels), np.uint8)

  class Records:
    def __len__(self):
      return 3

    def describe(self, index):
      return f"record {index}"

    def example(self, index):
      return self.examples([index])[0]

    def examples(self, indices):
      return [(bytes(100 if index == 2 else 1), 0) for index in indices]

  monkeypatch.setattr(arrays, "decode_image", decoded)
  with pytest.raises(data.DamagedData, match="record 2 is an image of 29 x 28 pixels"):
    arrays._decode_all(Records(), 1)


def test_labels_of_a_source_of_ones_own():
  file = io.BytesIO()
  PIL.Image.new("RGB", (8, 8)).save(file, "PNG")

  class Source:
    num_classes = 3

    def __len__(self):
      return 4

    def __getitem__(self, index):
      return data.EncodedImage(file.getvalue(), index)

  options = {"train": False, "num_workers": 0, "size": 8}
  with (
    pytest.raises(data.DamagedData, match="example 3 has the label 3; expected one of 0 to 2"),
    data.image_batches(Source(), 4, 0, **options) as batches,
  ):
    next(batches)
