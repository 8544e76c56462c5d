"""Records of TFDS, read byte by byte, against the protocol buffer library's own reader."""

import pytest
from prepared_data import DATA

from tatnet.training import data
from tatnet.training.data.records import image_and_label


def varint(value):
  value %= 2**64
  parts = []
  while value > 0x7F:
    parts.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*parts, value])


def field(number, content):
  return varint(number << 3 | 2) + varint(len(content)) + content


def record(**features):
  """A tf.train.Example, as the format's description says; floats and text as other features."""
  entries = b""
  for name, value in features.items():
    if isinstance(value, bytes):
      feature = field(1, field(1, value))
    elif isinstance(value, float):
      feature = field(2, field(1, b"\x00\x00\x80\x3f"))
    else:
      feature = field(3, field(1, varint(value)))
    entries += field(1, field(1, name.encode()) + field(2, feature))
  return field(1, entries)


@pytest.mark.parametrize("label", [0, 7, 127, 128, 999, 2**40, -1])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
def test_what_was_written_is_read(label, size):
  image = bytes(range(256)) * (size // 256) + bytes(size % 256)
  written = record(file_name=b"n01.JPEG", image=image, weight=1.0, label=label)
  assert image_and_label(written) == (image, label)


def test_a_list_that_is_not_packed():
  feature = field(3, varint(1 << 3) + varint(300))
  label = field(1, field(1, b"label") + field(2, feature))
  image = field(1, field(1, b"image") + field(2, field(1, field(1, b"x"))))
  assert image_and_label(field(1, label + image)) == (b"x", 300)


def test_records_that_lack_something():
  with pytest.raises(ValueError, match="lacks its label"):
    image_and_label(record(image=b"x"))
  with pytest.raises(ValueError, match="lacks its image"):
    image_and_label(record(label=3))


@pytest.mark.parametrize("keep", range(1, 40, 3))
def test_cut_off_records_are_told(keep):
  whole = record(image=b"0123456789", label=3)
  with pytest.raises(ValueError, match="record"):
    image_and_label(whole[: min(keep, len(whole) - 1)])


@pytest.mark.parametrize(
  "message", [b"\xff" * 1_000_000, b"\x0a" + b"\xff" * 11, b"\x0d\x00", b"\x09" + bytes(7)]
)
def test_integers_without_an_end_and_cut_numbers(message):
  with pytest.raises(ValueError, match="are not a record"):
    image_and_label(message)


def test_an_image_that_is_a_number():
  image = field(1, field(1, b"image") + field(2, field(1, varint(1 << 3) + varint(7))))
  label = field(1, field(1, b"label") + field(2, field(3, field(1, varint(1)))))
  with pytest.raises(ValueError, match="is a number; expected an encoded file"):
    image_and_label(field(1, image + label))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no prepared data in {DATA}")
def test_the_same_as_tfds_reads():
  import tensorflow_datasets as tfds

  source = data.TfdsImages("imagenet2012", "validation", DATA)
  reference = tfds.data_source(
    "imagenet2012",
    data_dir=DATA,
    split="validation",
    download=False,
    decoders={"image": tfds.decode.SkipDecoding()},
  )
  for i in range(0, 800, 37):
    assert source[i].encoded == reference[i]["image"]
    assert source[i].label == reference[i]["label"]
