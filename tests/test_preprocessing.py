"""Per-location normalisation: known values, mean squares of 1, and what it refuses."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tatnet import per_location_normalize

MODES = ["one", "avg_q", "off"]


def images(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(x, homogeneous, scale=1.0):
  """The definition in float64, location by location."""
  x = np.asarray(x, np.float64)
  out = []
  for example in x:
    if homogeneous == "off":
      h = []
    else:
      h = [scale * (1.0 if homogeneous == "one" else math.sqrt(np.mean(example**2)))]
    locations = [np.array([*pixel, *h]) for pixel in example.reshape(-1, x.shape[-1])]
    out.append([pixel / math.sqrt(np.mean(pixel**2)) for pixel in locations])
  return np.array(out).reshape(*x.shape[:-1], -1)


def test_a_scalar():
  expected = math.sqrt(2 / (1 + 0.3**2)) * np.array([0.3, 1.0])
  np.testing.assert_allclose(per_location_normalize(jnp.float32(0.3)), expected, rtol=1e-6)
  np.testing.assert_allclose(per_location_normalize(jnp.array([0.3])), [expected], rtol=1e-6)


def test_constant_images():
  x = jnp.full((10, 6, 3), 0.7)
  np.testing.assert_allclose(per_location_normalize(x, "off"), np.ones((10, 6, 3)), rtol=1e-6)
  np.testing.assert_allclose(per_location_normalize(x, "avg_q"), np.ones((10, 6, 4)), rtol=1e-6)
  expected = np.broadcast_to(math.sqrt(4 / 7) * np.array([1, 1, 1, 2]), (10, 6, 4))
  np.testing.assert_allclose(per_location_normalize(x, "avg_q", 2.0), expected, rtol=1e-6)


@pytest.mark.parametrize("homogeneous", MODES)
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 5, 3), (1, 2, 2, 2, 6)])
@pytest.mark.parametrize("scale", [1.0, 0.1, 3.0])
def test_definition(homogeneous, shape, scale):
  x = images(*shape)
  expected = reference(x, homogeneous, scale)
  np.testing.assert_allclose(
    per_location_normalize(x, homogeneous, scale), expected, rtol=1e-5, atol=1e-6
  )


def test_vectors_and_lists_of_numbers():
  x = images(5, 4)
  np.testing.assert_allclose(per_location_normalize(x), reference(x, "one"), rtol=1e-5, atol=1e-6)
  single = per_location_normalize(x[:, 0])
  np.testing.assert_allclose(single, reference(x[:, :1], "one"), rtol=1e-5, atol=1e-6)
  assert single.shape == (5, 2)


def test_avg_q_is_one_number_per_example():
  x = images(3, 4, 4, 2) * np.array([1.0, 10.0, 100.0], np.float32)[:, None, None, None]
  alone = [per_location_normalize(x[i : i + 1], "avg_q")[0] for i in range(3)]
  np.testing.assert_allclose(per_location_normalize(x, "avg_q"), alone, rtol=1e-5, atol=1e-6)
  # The coordinate scales with the example, so the result does not.
  np.testing.assert_allclose(
    per_location_normalize(7 * x, "avg_q"), per_location_normalize(x, "avg_q"), rtol=1e-4, atol=1e-6
  )


PRECISION = {jnp.float32: 1e-5, jnp.float16: 3e-3, jnp.bfloat16: 2e-2}


@settings(deadline=None, max_examples=60)
@given(
  shape=st.sampled_from([(1, 1, 3), (2, 3, 5), (3, 2, 2, 4)]),
  seed=st.integers(0, 2**32 - 1),
  log_size=st.floats(-3, 3),
  dtype=st.sampled_from(list(PRECISION)),
  homogeneous=st.sampled_from(MODES),
  scale=st.floats(0.1, 10),
)
def test_mean_squares_are_one(shape, seed, log_size, dtype, homogeneous, scale):
  x = jnp.asarray(10**log_size * images(*shape, seed=seed), dtype)
  y = per_location_normalize(x, homogeneous, scale)
  assert y.dtype == x.dtype
  assert y.shape == (*shape[:-1], shape[-1] + (homogeneous != "off"))
  squares = np.mean(np.asarray(y, np.float64) ** 2, axis=-1)
  np.testing.assert_allclose(squares, 1, rtol=PRECISION[dtype])


@pytest.mark.parametrize("size", [1e-25, 1e25])
@pytest.mark.parametrize("homogeneous", MODES)
def test_squares_neither_overflow_nor_vanish(size, homogeneous):
  x = images(2, 3, 4)
  y = per_location_normalize(np.float32(size) * x, homogeneous)
  np.testing.assert_allclose(np.mean(np.square(y), axis=-1), 1, rtol=1e-5)
  if homogeneous != "one":
    np.testing.assert_allclose(y, reference(x, homogeneous), rtol=1e-4, atol=1e-6)


def test_float64_is_kept():
  with jax.enable_x64(True):
    x = jnp.asarray(images(2, 3, 4), jnp.float64)
    y = per_location_normalize(x, "avg_q")
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, reference(x, "avg_q"), rtol=1e-14)


@pytest.mark.parametrize("homogeneous", MODES)
def test_jit_and_vmap(homogeneous):
  x = images(3, 4, 5, 3)
  expected = per_location_normalize(x, homogeneous)
  normalize = functools.partial(per_location_normalize, homogeneous=homogeneous)
  np.testing.assert_allclose(jax.jit(normalize)(x), expected, rtol=1e-6, atol=1e-7)
  stacked = jax.vmap(normalize)(x[:, None])[:, 0]
  np.testing.assert_allclose(stacked, expected, rtol=1e-6, atol=1e-7)


def test_black_pixels():
  x = images(2, 3, 3, 4)
  x[0, 1, 1] = 0
  for homogeneous in ("one", "avg_q"):
    y = per_location_normalize(x, homogeneous)
    np.testing.assert_allclose(y[0, 1, 1], [0, 0, 0, 0, math.sqrt(5)], rtol=1e-6)
  with pytest.raises(ValueError, match=r"1 location\(s\) are zero .*homogeneous='one'"):
    per_location_normalize(x, "off")


def test_a_black_image():
  x = np.zeros((2, 3, 3, 4), np.float32)
  x[1] = 1
  np.testing.assert_allclose(per_location_normalize(x)[0, ..., -1], math.sqrt(5), rtol=1e-6)
  for homogeneous in ("avg_q", "off"):
    with pytest.raises(ValueError, match=r"9 location\(s\) are zero"):
      per_location_normalize(x, homogeneous)


@pytest.mark.parametrize("mode", ["", "ONE", "avg", None])
def test_unknown_modes(mode):
  with pytest.raises(ValueError, match="expected one of 'one', 'avg_q', 'off'"):
    per_location_normalize(jnp.ones((2, 3)), mode)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_that_are_not_positive(scale):
  with pytest.raises(ValueError, match="expected a positive number"):
    per_location_normalize(jnp.ones((2, 3)), scale=scale)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool, np.complex64])
def test_integers_are_refused(dtype):
  with pytest.raises(TypeError, match=r"astype\(jnp.float32\) / 255"):
    per_location_normalize(np.ones((2, 4, 4, 3), dtype))


@pytest.mark.parametrize("shape", [(), (4,), (4, 3)])
def test_avg_q_needs_locations(shape):
  with pytest.raises(ValueError, match="avg_q"):
    per_location_normalize(jnp.ones(shape), "avg_q")


@pytest.mark.parametrize(("channels", "kept"), [(1, "the sign"), (2, "one angle")])
def test_few_channels_lose_what_off_does_not_keep(channels, kept):
  x = images(2, 3, channels)
  with pytest.warns(UserWarning, match=f"keeps only {kept}"):
    y = per_location_normalize(x, "off")
  np.testing.assert_allclose(y, reference(x, "off"), rtol=1e-5, atol=1e-6)


def test_other_modes_do_not_warn():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    per_location_normalize(images(2, 3, 1), "one")
    per_location_normalize(images(2, 3, 1), "avg_q")
    per_location_normalize(images(2, 3, 3), "off")
