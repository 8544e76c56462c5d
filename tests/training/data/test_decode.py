"""Decoding with OpenCV and with Pillow, and the crops."""

import io

import numpy as np
import PIL.Image
import pytest

from tatnet.training import data
from tatnet.training.data import decode


@pytest.fixture(params=["opencv", "pillow"])
def backend(request, monkeypatch):
  if request.param == "pillow":
    monkeypatch.setattr(decode, "_opencv", lambda: None)
  else:
    assert decode._opencv() is not None
  return request.param


def encode(pixels, kind="PNG", **options):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


def smooth(height, width):
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 255 // height, x * 255 // width, (x + y) % 256], -1).astype(np.uint8)


def test_png_is_exact(backend):
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  np.testing.assert_array_equal(data.decode_image(encode(pixels)), pixels)
  alpha = np.concatenate([pixels, np.full((5, 7, 1), 255, np.uint8)], -1)
  np.testing.assert_array_equal(data.decode_image(encode(alpha)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_greyscale_becomes_rgb(backend, kind):
  grey = smooth(16, 24)[..., 0]
  image = data.decode_image(encode(grey, kind))
  assert image.shape == (16, 24, 3)
  assert np.abs(image - grey[..., None].astype(int)).max() <= (3 if kind == "JPEG" else 0)
  single = data.decode_image(encode(grey, kind), channels=1)
  np.testing.assert_array_equal(single[..., 0], image[..., 0])


def test_jpeg_keeps_its_colours(backend):
  image = data.decode_image(encode(smooth(32, 48), "JPEG", quality=95, subsampling=0))
  assert np.abs(image.astype(int) - smooth(32, 48)).mean() < 2


def test_cmyk_jpeg(backend):
  pixels = PIL.Image.new("RGB", (8, 8), (200, 100, 50)).convert("CMYK")
  file = io.BytesIO()
  pixels.save(file, "JPEG")
  assert np.abs(data.decode_image(file.getvalue()).mean((0, 1)) - (200, 100, 50)).max() < 12


def test_orientation_is_respected(backend):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # the camera was held on its side
  image = data.decode_image(encode(smooth(8, 16), "JPEG", exif=exif.tobytes()))
  assert image.shape == (16, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_unreadable(backend, kind, keep):
  encoded = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), kind)
  with pytest.raises(data.UnreadableImage, match="bytes are not a readable JPEG or PNG"):
    data.decode_image(encoded[: int(keep * len(encoded))])


def test_other_bytes_are_unreadable(backend):
  for other in (b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff\xd8\xff\xd9"):
    with pytest.raises(data.UnreadableImage):
      data.decode_image(other)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (10, 200), (200, 10), (1, 1), (16, 16)])
def test_random_crops_have_the_size(backend, shape):
  for seed in range(20):
    crop = data.random_resized_crop_flip(np.random.default_rng(seed), smooth(*shape), size=16)
    assert crop.shape == (16, 16, 3)
    assert crop.dtype == np.uint8


def test_random_crop_is_a_function_of_the_generator(backend):
  first, again, other = (
    data.random_resized_crop_flip(np.random.default_rng(s), smooth(40, 60), 16) for s in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_random_crops_cover_what_they_should():
  draws = [
    decode._draw_crop(np.random.default_rng(s), 300, 400, (0.08, 1.0), (3 / 4, 4 / 3))
    for s in range(2000)
  ]
  top, left, height, width = np.array(draws).T
  assert top.min() == left.min() == 0
  assert np.all(top + height <= 300)
  assert np.all(left + width <= 400)
  area, ratio = height * width / (300 * 400), width / height
  assert area.min() < 0.09
  assert area.max() > 0.95
  assert ratio.min() > 0.73
  assert ratio.max() < 1.36
  small = area < 0.5  # where all draws fit: uniform
  assert abs(np.mean(np.log(ratio[small]))) < 0.02
  assert abs(np.mean(area[small]) - 0.29) < 0.015


def test_crop_that_does_not_fit_is_the_middle():
  draw = decode._draw_crop(np.random.default_rng(0), 30, 300, (1.0, 1.0), (3 / 4, 4 / 3))
  assert draw == (0, 130, 30, 40)


def test_half_of_the_crops_are_mirrored(backend):
  image = smooth(32, 32)
  whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
  mirrored = 0
  for seed in range(100):
    crop = data.random_resized_crop_flip(np.random.default_rng(seed), image, 32, **whole)
    same = np.array_equal(crop, image)
    assert same != np.array_equal(crop, image[:, ::-1])
    mirrored += not same
  assert 35 <= mirrored <= 65


def test_center_crop_takes_the_middle(backend):
  image = smooth(256, 320)
  np.testing.assert_array_equal(data.center_crop(image, 224, 256), image[16:240, 48:272])
  half = data.center_crop(image, 112, resize_to=128)
  averaged = image[16:240, 48:272].reshape(112, 2, 112, 2, 3).mean((1, 3))
  assert np.abs(half[2:-2, 2:-2] - averaged[2:-2, 2:-2])[..., :2].max() <= 1.5
  assert data.center_crop(smooth(5, 3), 224).shape == (224, 224, 3)
  with pytest.raises(ValueError, match="size=300, resize_to=256"):
    data.center_crop(image, 300)


def test_greyscale_crops_keep_their_axis(backend):
  grey = smooth(20, 30)[..., :1]
  assert data.random_resized_crop_flip(np.random.default_rng(0), grey, 8).shape == (8, 8, 1)
  assert data.center_crop(grey, 28, 32).shape == (28, 28, 1)
