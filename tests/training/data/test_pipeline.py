"""Batches of decoded images: resumption, workers, sharing, evaluation, unreadable files."""

import logging

import numpy as np
import PIL.Image
import pytest
from prepared_data import DATA

from tatnet.training import data
from tatnet.training.data.pieces import Pieces

NUM_IMAGES = 53
BROKEN = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Images of one grey level each, their number, so that a batch shows what is in it."""
  root = tmp_path_factory.mktemp("images")
  for i in range(NUM_IMAGES):
    path = root / f"class{i * 3 // NUM_IMAGES}" / f"{i:03}.png"
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new("RGB" if i % 2 else "L", (20 + i, 30), (i, i, i) if i % 2 else i).save(path)
  return root


@pytest.fixture
def source(folder):
  return data.ImageFolder(folder)


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory):
  root = tmp_path_factory.mktemp("damaged")
  for path in folder.rglob("*.png"):
    copy = root / path.parent.name / path.name
    copy.parent.mkdir(exist_ok=True)
    PIL.Image.open(path).convert("RGB").resize((40, 40)).save(copy)
    if path.stem == f"{BROKEN:03}":
      content = copy.read_bytes()
      copy.write_bytes(content[: len(content) // 2])
  return root


class Coloured:
  """Images that differ everywhere, so that crops and mirrorings show; counts its reads."""

  def __init__(self, count=40):
    self.count, self.reads = count, 0

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    import io

    self.reads += 1
    pixels = np.random.default_rng(index).integers(0, 256, (24, 24, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue(), index


def take(source, count, batch_size=16, **options):
  options = {"train": True, "num_workers": 0, "size": 8, **options}
  with data.image_batches(source, batch_size, 7, **options) as batches:
    return [next(batches) for _ in range(count)]


def assert_same(first, second):
  for a, b in zip(first, second, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_training_batches_hold_what_the_order_says(source):
  order = data.Shuffled(NUM_IMAGES, 16, 7)
  for step, batch in enumerate(take(source, 8)):
    assert batch["image"].shape == (16, 8, 8, 3)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch["image"][:, 3, 3, 0], order.indices(step))
    np.testing.assert_array_equal(batch["image"].max((1, 2)), batch["image"].min((1, 2)))
    np.testing.assert_array_equal(batch["label"], order.indices(step) * 3 // NUM_IMAGES)


def test_batches_larger_than_a_piece(source):
  (batch,) = take(source, 1, batch_size=50)
  np.testing.assert_array_equal(
    batch["image"][:, 0, 0, 0], data.Shuffled(NUM_IMAGES, 50, 7).indices(0)
  )


def test_an_image_is_cropped_differently_in_each_epoch():
  first, second = (
    {*zip(b["label"].tolist(), map(bytes, b["image"]), strict=True)}
    for b in take(Coloured(), 2, 40)
  )
  assert {label for label, _ in first} == {label for label, _ in second} == {*range(40)}
  assert len(first & second) == 0


def test_resuming_equals_continuing():
  continued = take(Coloured(), 7)
  for start in (1, 4, 6):
    assert_same(take(Coloured(), 7 - start, start_step=start), continued[start:])


def test_resuming_reads_nothing_of_what_it_skips():
  source = Coloured()
  pieces = Pieces(source, data.Shuffled(40, 16, 0), 10**9, 8)
  assert source.reads == 0
  assert pieces[0].images.shape[0] == 16
  assert source.reads == 16


def test_iterator_knows_its_step(source):
  with data.image_batches(source, 16, 0, train=True, num_workers=0, start_step=5) as batches:
    next(batches)
    assert batches.step == 6


@pytest.mark.parametrize("train", [True, False])
def test_parts_make_the_whole_batch(train):
  whole = take(Coloured(), 3, train=train)
  parts = [take(Coloured(), 3, train=train, shard=(i, 4)) for i in range(4)]
  together = [
    {name: np.concatenate([part[name] for part in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert_same(together, whole)


def test_workers_change_nothing_and_report(damaged, caplog):
  source = data.ImageFolder(damaged)
  alone, unreadable = [], []
  for workers in (0, 2):
    caplog.clear()
    with data.image_batches(
      source, 40, 7, train=True, num_workers=workers, start_step=1, size=8
    ) as batches:
      alone.append([next(batches) for _ in range(4)])
      unreadable.append(batches.unreadable)
    assert [r.message for r in caplog.records if "Unreadable" in r.message] == [
      f"Unreadable image, replaced by the next: {source.describe(BROKEN)}"
    ]
  assert_same(*alone)
  assert unreadable == [(BROKEN,)] * 2


def test_unreadable_image_is_replaced_in_training(damaged):
  source = data.ImageFolder(damaged)
  order = data.Shuffled(NUM_IMAGES, 53, 7)
  (batch,) = take(source, 1, batch_size=53)
  expected = np.where(order.indices(0) == BROKEN, BROKEN + 1, order.indices(0))
  np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], expected)
  np.testing.assert_array_equal(batch["label"], expected * 3 // NUM_IMAGES)


def test_unreadable_image_does_not_count_in_evaluation(damaged, caplog):
  source = data.ImageFolder(damaged)
  with data.image_batches(source, 20, 0, train=False, num_workers=0, size=8) as batches:
    counted = [i for b in batches for i in b["image"][b["mask"]][:, 0, 0, 0].tolist()]
    assert batches.unreadable == (BROKEN,)
  assert counted == [i for i in range(NUM_IMAGES) if i != BROKEN]
  assert "not counted" in caplog.text


def test_nothing_readable_is_an_error():
  class Rubbish(Coloured):
    def __getitem__(self, index):
      return b"rubbish", 0

  with pytest.raises(data.UnreadableImage, match="none of 40 in a row"):
    take(Rubbish(), 1)


@pytest.mark.parametrize("batch_size", [7, 32, 53, 100])
def test_evaluation_counts_every_example_once(source, batch_size):
  with data.image_batches(source, batch_size, 0, train=False, num_workers=0, size=8) as batches:
    results = list(batches)
  assert len(results) == -(-NUM_IMAGES // batch_size)
  assert {b["image"].shape for b in results} == {(batch_size, 8, 8, 3)}
  counted = np.concatenate([b["image"][b["mask"]][:, 0, 0, 0] for b in results])
  np.testing.assert_array_equal(counted, np.arange(NUM_IMAGES))
  labels = np.concatenate([b["label"][b["mask"]] for b in results])
  np.testing.assert_array_equal(labels, np.arange(NUM_IMAGES) * 3 // NUM_IMAGES)
  assert results[0]["mask"].dtype == bool


def test_evaluation_is_the_central_crop():
  (batch,) = take(Coloured(3), 1, batch_size=4, train=False, size=14)
  expected = data.center_crop(data.decode_image(Coloured()[2][0]), 14, 16)
  np.testing.assert_array_equal(batch["image"][2], expected)
  assert not batch["image"][3].any()


def test_evaluation_can_start_late_and_ends(source):
  with data.image_batches(source, 20, 0, train=False, num_workers=0, start_step=2) as batches:
    assert next(batches)["mask"].sum() == 13
    with pytest.raises(StopIteration):
      next(batches)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"start_step": -1}, "start_step=-1"),
    ({"num_workers": -1}, "num_workers=-1"),
    ({"size": 0}, "size=0"),
    ({"batch_size": 54}, "batch_size=54 of 53"),
    ({"shard": (0, 3)}, "batch_size=16 on 3 processes"),
  ],
)
def test_bad_arguments(source, options, message):
  with pytest.raises(ValueError, match=message):
    take(source, 1, **options)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no prepared data in {DATA}")
def test_real_images():
  source = data.TfdsImages("imagenet2012", "validation", DATA)
  counted, shapes, unreadable = 0, set(), ()
  with data.image_batches(source, 128, 0, train=False, num_workers=0) as batches:
    for batch in batches:
      counted += int(batch["mask"].sum())
      shapes.add(batch["image"].shape)
    unreadable = batches.unreadable
  assert (counted, shapes, unreadable) == (800, {(128, 224, 224, 3)}, ())
  train = take(data.TfdsImages("imagenet2012", "train", DATA), 2, start_step=30)
  assert 60 < np.mean([batch["image"] for batch in train]) < 180


def test_logger_is_that_of_the_module():
  assert logging.getLogger("tatnet.training.data.pipeline").handlers == []
