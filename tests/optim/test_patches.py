"""Moments and sums of patches, computed without the patches, for random geometries."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kfac_references import patches_of, quick_jit

from tatnet.optim.patches import Window, patch_moment, patch_sum


@st.composite
def geometries(draw):
  rank = draw(st.integers(1, 3))
  sizes = st.integers(1, 3 if rank == 3 else 4)

  def each(strategy):
    return tuple(draw(st.lists(strategy, min_size=rank, max_size=rank)))

  window = Window(
    size=each(sizes),
    stride=each(st.integers(1, 3)),
    dilation=each(st.integers(1, 2)),
    padding=each(st.tuples(st.integers(-1, 2), st.integers(-1, 2))),
  )
  space = each(st.integers(1, 4 if rank == 3 else 8))
  return window, space, draw(st.integers(1, 2)), draw(st.integers(1, 2))


@settings(max_examples=40, deadline=None)
@given(geometries(), st.integers(0, 2**31))
def test_moments_and_sums_are_those_of_explicit_patches(geometry, seed):
  window, space, batch, channels = geometry
  assume(
    all(n + min(a, 0) + min(b, 0) > 0 for n, (a, b) in zip(space, window.padding, strict=True))
  )
  assume(all(n > 0 for n in window.outputs(space)))
  x = np.random.default_rng(seed).normal(size=(batch, *space, channels)) + 0.5
  patches = patches_of(x, window.size, window.stride, window.dilation, window.padding)
  with jax.enable_x64(True):
    both = quick_jit(lambda x: (patch_moment(x, window), patch_sum(x, window)))
    moment, total = both(x)
  assert patches.shape[1] == np.prod(window.outputs(space))
  np.testing.assert_allclose(total, patches.sum(axis=1), atol=1e-12)
  np.testing.assert_allclose(moment, np.einsum("bti,btj->ij", patches, patches), atol=1e-11)


def test_sums_of_half_precision_inputs_are_kept_in_full_precision():
  x = jnp.ones((1, 4096, 1), jnp.bfloat16)
  window = Window((3,), (1,), (1,), ((1, 1),))
  moment = patch_moment(x, window)
  assert moment.dtype == jnp.float32
  # 8 bits of mantissa would stop counting at 256.
  np.testing.assert_array_equal(moment[1], [4095, 4096, 4095])
