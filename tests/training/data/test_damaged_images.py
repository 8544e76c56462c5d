"""Images that are damaged, huge, of 16 bits, or no files at all."""

import io
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from tatnet.training import data
from tatnet.training.data import decode

NOISE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.fixture(params=["opencv", "pillow"])
def backend(request, monkeypatch):
  if request.param == "pillow":
    monkeypatch.setattr(decode, "_opencv", lambda: None)


def encode(pixels, kind, mode=None, **options):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).convert(mode).save(file, kind, **options)
  return file.getvalue()


@pytest.mark.parametrize("fill", [bytes(512), b"\xff" * 512])
def test_a_jpeg_with_a_damaged_middle(backend, fill):
  whole = encode(NOISE, "JPEG", quality=95)
  middle = len(whole) // 2
  with pytest.raises(data.UnreadableImage, match="bytes are not a readable"):
    data.decode_image(whole[:middle] + fill + whole[middle + len(fill) :])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("quality", [5, 100])
@pytest.mark.parametrize(
  "pixels", [NOISE, np.zeros((400, 300, 3), np.uint8)], ids=["noise", "flat"]
)
def test_whole_jpegs_are_not_damaged(backend, mode, options, quality, pixels):
  for optimize in (False, True):
    encoded = encode(pixels, "JPEG", mode, quality=quality, optimize=optimize, **options)
    assert data.decode_image(encoded).shape == pixels.shape


def chunk(kind, content):
  return (
    struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
  )


def test_a_decompression_bomb(backend):
  header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
  bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))
  with pytest.raises(data.UnreadableImage, match="30000 x 30000"):
    data.decode_image(bomb + chunk(b"IEND", b""))
  jpeg = bytearray(encode(NOISE, "JPEG"))
  place = jpeg.index(b"\xff\xc0") + 5
  jpeg[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
  with pytest.raises(data.UnreadableImage, match="60000 x 60000"):
    data.decode_image(bytes(jpeg))


def test_sixteen_bits_of_grey(backend):
  ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
  file = io.BytesIO()
  PIL.Image.fromarray(ramp).save(file, "PNG")
  image = data.decode_image(file.getvalue())
  assert np.abs(image[..., 0].astype(int) - ramp / 257).max() <= 1.5


MAKE = {
  "no image": lambda path: path.write_bytes(b"x"),
  "an empty file": lambda path: path.touch(),
  "a link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
  "a link to itself": lambda path: path.symlink_to(path),
  "a folder": lambda path: path.mkdir(),
  "a pipe": os.mkfifo,
  "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("what", [*MAKE, "a file that vanishes"])
def test_what_cannot_be_read_is_left_out(tmp_path, what):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    for number in range(3):
      (tmp_path / name / f"{number}.png").write_bytes(encode(NOISE, "PNG"))
  path = tmp_path / "a" / "2.png"
  if what in MAKE:
    path.unlink()
    MAKE[what](path)
  source = data.ImageFolder(tmp_path)
  if what not in MAKE:
    path.unlink()
  for train in (True, False):
    options = {"train": train, "num_workers": 0, "size": 8}
    with data.image_batches(source, 6, 0, **options) as batches:
      next(batches)
      assert batches.unreadable == (2,)


def test_classes_behind_links(tmp_path):
  for name in ("real", "root"):
    (tmp_path / name).mkdir()
  (tmp_path / "real" / "1.png").write_bytes(encode(NOISE, "PNG"))
  (tmp_path / "root" / "cat").symlink_to(tmp_path / "real")
  assert len(data.ImageFolder(tmp_path / "root")) == 1
  (tmp_path / "root" / "dog").symlink_to("/nowhere/at/all")
  with pytest.raises(ValueError, match="dog is a link to nothing"):
    data.ImageFolder(tmp_path / "root")
