"""Scaled uniform orthogonal weights: what they keep, where Delta puts them, and their law."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet import scaled_uniform_orthogonal

KEY = jax.random.key(3)


def q(x, axis=None):
  return np.mean(np.square(np.asarray(x, np.float64)), axis=axis)


def signals(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
  "shape", [(1, 1), (1, 9), (9, 1), (5, 40), (40, 5), (17, 17), (33, 32), (256, 600)]
)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_rows_or_columns_are_orthonormal(shape, scale):
  inputs, outputs = shape
  w = np.asarray(scaled_uniform_orthogonal(KEY, (inputs, outputs), scale=scale), np.float64)
  gain = scale * max(math.sqrt(outputs / inputs), 1.0)
  gram = w @ w.T if inputs <= outputs else w.T @ w
  np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5 * gain**2)


def test_normals_become_the_q_whose_r_has_a_positive_diagonal():
  # Which makes its law Haar's. Wide, square, tall; the largest by another algorithm.
  shapes = [(512, 256), (300, 256), (256, 512), (17, 17), (3, 3, 40, 17)]
  weights = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  init = tatnet.ScaledUniformOrthogonal()
  normals = np.random.default_rng(0).normal(size=init.num_normals(weights)).astype(np.float32)
  found = jax.jit(lambda normals: init.from_normals(normals, weights))(normals)
  # Those made together have one array, padded with rows.
  stacks = [((2, 512, 256), (0, 2)), ((1, 300, 256), (1,)), ((2, 40, 17), (3, 4))]
  start = 0
  for shape, members in stacks:
    own = normals[start : start + math.prod(shape)].reshape(shape).astype(float)
    start += math.prod(shape)
    for matrix, i in zip(own, members, strict=True):
      *window, inputs, outputs = shapes[i]
      orthogonal, triangle = np.linalg.qr(matrix[: max(inputs, outputs)])
      orthogonal = orthogonal * np.sign(np.diag(triangle))
      expected = orthogonal if inputs >= outputs else math.sqrt(outputs / inputs) * orthogonal.T
      given = np.asarray(found[i])[*(n // 2 for n in window)]
      np.testing.assert_allclose(given, expected, atol=1e-5, err_msg=str(shapes[i]))
  assert start == len(normals)


@pytest.mark.parametrize("shape", [(1, 9), (17, 17), (5, 40)])
def test_q_is_kept_exactly_for_at_least_as_many_outputs(shape):
  x = signals(50, shape[0])
  np.testing.assert_allclose(q(x @ scaled_uniform_orthogonal(KEY, shape), -1), q(x, -1), rtol=1e-5)


def over_seeds(f, count):
  """f(key) for many keys, one after another in one program."""
  keys = jax.random.split(jax.random.key(7), count)
  return np.asarray(jax.jit(lambda keys: jax.lax.map(f, keys))(keys), np.float64)


@pytest.mark.parametrize("shape", [(24, 6), (9, 1), (20, 19)])
def test_q_is_kept_in_expectation_for_fewer_outputs(shape):
  x = signals(shape[0])
  values = over_seeds(lambda key: jnp.mean((x @ scaled_uniform_orthogonal(key, shape)) ** 2), 2000)
  error = values.std() / math.sqrt(len(values))
  assert values.mean() == pytest.approx(q(x), abs=5 * error)
  assert 5 * error < 0.2 * q(x)


def test_square_matrices_are_haar_distributed():
  # Diaconis & Shahshahani (1994): E[tr] = 0, E[tr^2] = 1, E[tr(M^2)] = 1 for O(n), and
  # the determinant is 1 or -1 with equal chance. QR without sign correction has none of it.
  draws = over_seeds(lambda key: scaled_uniform_orthogonal(key, (4, 4)), 4000)
  traces = np.trace(draws, axis1=1, axis2=2)
  assert traces.mean() == pytest.approx(0, abs=0.08)
  assert (traces**2).mean() == pytest.approx(1, abs=0.12)
  assert np.trace(draws @ draws, axis1=1, axis2=2).mean() == pytest.approx(1, abs=0.15)
  assert np.linalg.det(draws).mean() == pytest.approx(0, abs=0.08)
  assert draws.mean(axis=0) == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("window", [(5,), (3, 3), (1, 7), (3, 1, 5)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (8, 3)])
def test_delta_fills_the_centre_tap_alone(window, inputs, outputs):
  w = np.array(scaled_uniform_orthogonal(KEY, (*window, inputs, outputs)))
  centre = tuple(size // 2 for size in window)
  matrix = w[centre].copy()
  gram = matrix @ matrix.T / (outputs / inputs) if inputs <= outputs else matrix.T @ matrix
  np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
  w[centre] = 0
  assert not w.any()


@pytest.mark.parametrize("window", [(3,), (2, 2), (3, 4)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (2, 50)])
def test_without_delta_the_flattened_kernel_is_orthogonal(window, inputs, outputs):
  w = np.array(scaled_uniform_orthogonal(KEY, (*window, inputs, outputs), delta=False))
  assert w.shape == (*window, inputs, outputs)
  fan_in = math.prod(window) * inputs
  flat = w.reshape(fan_in, outputs)
  gram = flat @ flat.T / (outputs / fan_in) if fan_in <= outputs else flat.T @ flat
  np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_a_matrix_does_not_depend_on_delta():
  for delta in (True, False):
    w = scaled_uniform_orthogonal(KEY, (4, 6), delta=delta)
    np.testing.assert_array_equal(w, scaled_uniform_orthogonal(KEY, (4, 6)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, "bfloat16", np.float32])
@pytest.mark.parametrize("shape", [(8, 16), (3, 3, 16, 8)])
def test_dtypes(dtype, shape):
  w = scaled_uniform_orthogonal(KEY, shape, dtype)
  assert w.dtype == jnp.dtype(dtype)
  assert w.shape == shape
  # Drawn in float32 and rounded once.
  np.testing.assert_array_equal(w, scaled_uniform_orthogonal(KEY, shape).astype(dtype))


def test_keys():
  w = scaled_uniform_orthogonal(jax.random.key(5), (4, 4))
  np.testing.assert_array_equal(w, scaled_uniform_orthogonal(jax.random.key(5), [4, 4]))
  np.testing.assert_array_equal(w, scaled_uniform_orthogonal(jax.random.PRNGKey(5), (4, 4)))
  other = scaled_uniform_orthogonal(jax.random.key(6), (4, 4))
  assert not np.allclose(w, other, atol=0.1)


def test_jit():
  sampled = jax.jit(lambda key: scaled_uniform_orthogonal(key, (3, 8, 16), scale=1.5))(KEY)
  np.testing.assert_allclose(
    sampled, scaled_uniform_orthogonal(KEY, (3, 8, 16), scale=1.5), atol=1e-5
  )
  abstract = jax.eval_shape(lambda key: scaled_uniform_orthogonal(key, (64, 10**6)), KEY)
  assert abstract.shape == (64, 10**6)


@pytest.mark.parametrize("shape", [(), (16,), (0, 3), (3, 3, 0, 4), (-1, 4)])
def test_shapes_that_are_not_a_weight(shape):
  with pytest.raises(ValueError, match=r"expected \[inputs, outputs\]"):
    scaled_uniform_orthogonal(KEY, shape)


@pytest.mark.parametrize("window", [(2,), (2, 2), (3, 4), (3, 3, 2)])
def test_even_windows_have_no_centre(window):
  with pytest.raises(ValueError, match="expected odd sizes"):
    scaled_uniform_orthogonal(KEY, (*window, 4, 8))


@pytest.mark.parametrize("dtype", [jnp.int32, bool, jnp.uint8, jnp.complex64])
def test_dtypes_that_are_not_floats(dtype):
  with pytest.raises(TypeError, match="expected a float dtype"):
    scaled_uniform_orthogonal(KEY, (4, 4), dtype)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_that_are_not_positive(scale):
  with pytest.raises(ValueError, match="expected a positive number"):
    scaled_uniform_orthogonal(KEY, (4, 4), scale=scale)


def transformed(module, x, key):
  """Parameters and output of a module made inside `hk.transform`."""
  network = hk.transform(lambda x: module()(x))
  params = network.init(key, x)
  (weights,) = params.values()
  return weights, network.apply(params, None, x)


def test_haiku_linear():
  x = signals(7, 16)
  initializer = tatnet.ScaledUniformOrthogonal(scale=2.0)
  weights, y = transformed(lambda: hk.Linear(64, w_init=initializer), x, KEY)
  assert weights["w"].shape == (16, 64)
  np.testing.assert_allclose(q(y, -1), 4 * q(x, -1), rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, (5, 3)])
def test_haiku_convolution_keeps_q_at_every_location(stride, kernel):
  x = signals(2, 8, 8, 4)
  initializer = tatnet.ScaledUniformOrthogonal()
  weights, y = transformed(lambda: hk.Conv2D(12, kernel, stride=stride, w_init=initializer), x, KEY)
  # SAME padding puts the centre of an even number of strided windows one pixel further.
  offset = stride - 1 if kernel != 1 else 0
  expected = q(x, -1)[:, offset::stride, offset::stride]
  np.testing.assert_allclose(q(y, -1), expected, rtol=1e-5)
  assert weights["w"].dtype == jnp.float32


def test_haiku_grouped_convolution_keeps_q_in_expectation():
  x = signals(8, 1, 8)

  def draw(key):
    initializer = tatnet.ScaledUniformOrthogonal()
    module = lambda: hk.Conv1D(16, 3, feature_group_count=4, w_init=initializer)  # noqa: E731
    return jnp.mean(transformed(module, x, key)[1] ** 2, axis=(1, 2))

  values = over_seeds(draw, 1000)
  error = values.std(axis=0) / math.sqrt(len(values))
  assert (np.abs(values.mean(axis=0) - q(x, (1, 2))) < 5 * error).all()
  assert (5 * error < 0.2 * q(x, (1, 2))).all()


def test_haiku_bfloat16_parameters():
  x = jnp.ones((2, 8), jnp.bfloat16)
  weights, y = transformed(lambda: hk.Linear(8, w_init=tatnet.ScaledUniformOrthogonal()), x, KEY)
  assert weights["w"].dtype == y.dtype == jnp.bfloat16


def test_haiku_errors_are_the_functions_own():
  x = signals(1, 8, 8, 4)
  with pytest.raises(ValueError, match="expected odd sizes"):
    transformed(lambda: hk.Conv2D(8, 2, w_init=tatnet.ScaledUniformOrthogonal()), x, KEY)


def test_the_initializer_is_a_value():
  assert tatnet.ScaledUniformOrthogonal() == tatnet.ScaledUniformOrthogonal(1.0, True)
  assert len({tatnet.ScaledUniformOrthogonal(), tatnet.ScaledUniformOrthogonal(delta=False)}) == 2
