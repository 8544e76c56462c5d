"""Singular values of Jacobians, and what they say of training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tatnet
from tatnet.diagnostics.jacobians import jacobian, largest_singular_values, singular_values
from tatnet.diagnostics.tangent_kernel import (
  cross_entropy_pl,
  squared_error_pl,
  tangent_kernel,
  tangent_kernel_bound,
)


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def network(x, a, b):
  return jnp.tanh(x @ a) @ b


@pytest.mark.parametrize("shapes", [((5, 7), (7, 3)), ((3, 7), (7, 9)), ((40, 6), (6, 2))])
def test_dense_singular_values(shapes):
  a, b = draw(*shapes[0], seed=1), draw(*shapes[1], seed=2)
  x = draw(4, shapes[0][0])
  matrix = jax.jacfwd(network)(x, a, b).reshape(4 * shapes[1][1], -1)
  np.testing.assert_allclose(jacobian(network, x, a, b), matrix, atol=1e-5)
  expected = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
  np.testing.assert_allclose(singular_values(network, x, a, b), expected, atol=2e-5)


def test_batch_normalisation_of_many_features():
  """The gradient that jaxlib 0.10 gets wrong on CPU when several are taken under one jax.vmap."""
  x, weights = np.float64(draw(32, 720, seed=1)), draw(720, 10, seed=2)

  def function(x):
    return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5) @ weights

  # By hand: d y_bn / d x_an = (delta_ab - 1/B - y_an y_bn / B) / s_n.
  deviation = np.sqrt(x.var(0) + 1e-5)
  y = (x - x.mean(0)) / deviation
  inner = np.eye(32)[..., None] - 1 / 32 - y[:, None] * y / 32
  expected = np.einsum("ban,n,nc->bcan", inner, 1 / deviation, np.float64(weights))
  found = jacobian(function, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(found, expected.reshape(320, -1), atol=1e-4)


def test_largest_singular_values():
  a, b = draw(60, 80, seed=1), draw(80, 50, seed=2)
  x = draw(3, 60)
  expected = singular_values(network, x, a, b)
  found = largest_singular_values(lambda x: network(x, a, b), x, k=5, tolerance=1e-5)
  np.testing.assert_allclose(found.values, expected[:5], rtol=1e-4)
  assert np.all(np.abs(found.values - expected[:5]) <= found.errors + 1e-4 * expected[0])
  assert found.products < 2 * 150


def test_all_by_lanczos():
  a = draw(12, 7)
  found = largest_singular_values(lambda x: x @ a, draw(12), k=7)
  np.testing.assert_allclose(
    found.values, np.linalg.svd(np.asarray(a), compute_uv=False), rtol=1e-4
  )


def test_values_that_occur_several_times():
  found = largest_singular_values(lambda x: 2.0 * x, jnp.zeros(30), k=4)
  np.testing.assert_allclose(found.values, 2, rtol=1e-5)
  found = largest_singular_values(lambda x: x * jnp.zeros(5), jnp.zeros(5), k=2)
  np.testing.assert_allclose(found.values, 0, atol=1e-7)


def batched(x, w):
  return x @ w


def pointwise(x, w):  # a convolution of one tap: the same at every place of the image
  return jnp.einsum("bhwc,cd->bhwd", x, w)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(
  ("layer", "shape"), [(batched, (8, 60)), (pointwise, (2, 3, 3, 20))], ids=["batch", "places"]
)
def test_layers_that_act_alike_everywhere(layer, shape, k):
  """The Jacobian is a Kronecker product: every value occurs as often as there are vectors."""
  w = draw(shape[-1], 30)
  of_weights = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
  expected = np.repeat(of_weights, math.prod(shape[:-1]))[:k]
  found = largest_singular_values(lambda x: layer(x, w), jnp.ones(shape), k=k)
  np.testing.assert_allclose(found.values, expected, rtol=1e-3)
  assert np.all(np.abs(found.values - expected) <= found.errors)


def test_a_multiple_value_above_a_dense_spectrum():
  scales = jnp.concatenate([jnp.full(5, 10.0), jnp.linspace(9, 0.1, 995)])
  found = largest_singular_values(lambda x: scales * x, jnp.zeros(1000), k=7, tolerance=1e-5)
  np.testing.assert_allclose(found.values, [10] * 5 + [9, scales[6]], rtol=1e-5)


def test_float64():
  with jax.enable_x64(True):
    scales = 1 + jnp.arange(100) * 1e-9
    found = largest_singular_values(lambda x: scales * x, jnp.zeros(100), k=2, tolerance=1e-13)
  np.testing.assert_allclose(found.values, [1 + 99e-9, 1 + 98e-9], rtol=0, atol=1e-11)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_of_lower_rank_than_asked_for(rank):
  a, b = draw(20, 4, seed=1)[:, :rank], draw(4, 15, seed=2)[:rank]
  found = largest_singular_values(lambda x: x @ a @ b, jnp.zeros(20), k=5)
  expected = np.linalg.svd(np.asarray(a @ b, np.float64), compute_uv=False)[:5]
  np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_pytrees():
  def function(tree):
    return {"sum": tree["a"] + tree["b"], "b": 3 * tree["b"]}

  point = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
  expected = np.linalg.svd([[1, 1], [0, 3]], compute_uv=False).repeat(2)
  np.testing.assert_allclose(singular_values(function, point), expected, rtol=1e-5)
  np.testing.assert_allclose(
    largest_singular_values(function, point, k=4).values, expected, rtol=1e-5
  )


@pytest.mark.parametrize(("size", "channels", "stride"), [(12, (5, 20), 3), (8, (4, 9), 2)])
def test_pooling_of_macdonald_is_a_partial_isometry(size, channels, stride):
  def shortcut(x):
    return stride * tatnet.nets.pooled(x, channels[1], stride)

  values = singular_values(shortcut, jnp.zeros([1, size, size, channels[0]]))
  rank = (size // stride) ** 2 * channels[0]
  np.testing.assert_allclose(values[:rank], 1, atol=1e-4)
  np.testing.assert_allclose(values[rank:], 0, atol=1e-3)


def test_spectra_of_a_random_matrix_with_and_without_identity():
  # identity_dynamics_skips.md 3.4: A_ij ~ U(-1, 1) / sqrt(500).
  a = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, [500, 500]) / math.sqrt(500), jnp.float32)
  plain = singular_values(lambda x: a @ x, jnp.zeros(500))
  skipped = singular_values(lambda x: x + a @ x, jnp.zeros(500))
  assert plain.mean() == pytest.approx(8 / (3 * math.pi) / math.sqrt(3), abs=0.005)
  assert plain.max() == pytest.approx(2 / math.sqrt(3), abs=0.03)
  assert plain.min() < 0.01
  assert skipped.mean() == pytest.approx(1.083, abs=0.01)
  assert skipped.max() == pytest.approx(1.878, abs=0.03)
  assert skipped.min() == pytest.approx(0.298, abs=0.05)


def plain_layer(params, x):
  return jnp.tanh(x @ params["w"] + params["b"])


def residual_layer(params, x):
  return x + plain_layer(params, x)


def random_chain(layer, scale, seed, width=6, depth=5):
  rng = np.random.default_rng(seed)

  def params():
    w = scale * rng.standard_normal([width, width]) / math.sqrt(width)
    return {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(width)}

  layers = [(layer, params()) for _ in range(depth)]
  return layers, jnp.asarray(rng.standard_normal([4, width]), jnp.float32)


@pytest.mark.parametrize("layer", [plain_layer, residual_layer])
@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_bound_holds_on_random_chains(layer, scale):
  smallest, bounds = [], []
  for seed in range(20):
    layers, x = random_chain(layer, scale, seed)
    bound = tangent_kernel_bound(layers, x)
    eigenvalues = np.linalg.eigvalsh(tangent_kernel(layers, x))
    rounding = 1e-5 * eigenvalues[-1]
    assert 0 < bound.lower <= eigenvalues[0] + rounding
    assert bound.upper >= eigenvalues[-1] - rounding
    smallest.append(eigenvalues[0])
    bounds.append(bound.lower)
  # The notes' medians, in their order of magnitude: 1.5e-8 and 4.1e-3 without shortcuts,
  # 2.35 and 0.70 with. The bound moves with them.
  lowest, highest = {
    (plain_layer, 0.2): (0, 1e-6),
    (plain_layer, 1.0): (1e-4, 0.1),
    (residual_layer, 0.2): (0.5, 8),
    (residual_layer, 1.0): (0.2, 4),
  }[layer, scale]
  assert lowest < np.median(smallest) < highest
  assert np.median(bounds) > (0.01 if (layer, scale) == (residual_layer, 0.2) else 0)


def test_tangent_kernel_is_that_of_the_whole_function():
  layers, x = random_chain(plain_layer, 1.0, 0, width=4, depth=3)

  def whole(params):
    y = x
    for layer, own in zip((layer for layer, _ in layers), params, strict=True):
      y = layer(own, y)
    return y

  derivative = jacobian(whole, [params for _, params in layers])
  np.testing.assert_allclose(tangent_kernel(layers, x), derivative @ derivative.T, atol=1e-4)


def test_layer_with_fewer_parameters_than_outputs_adds_nothing():
  layers = [(lambda gain, x: gain * x, jnp.float32(2.0)), (lambda none, x: 3.0 * x, {})]
  bound = tangent_kernel_bound(layers, jnp.ones([2, 2]))
  np.testing.assert_allclose(bound.terms, 0)
  np.testing.assert_allclose(bound.of_inputs, [2, 3], rtol=1e-6)
  assert bound.upper == pytest.approx(9 * 4, rel=1e-5)


def test_pl_inequality_of_squared_error():
  layers, x = random_chain(residual_layer, 0.5, 3)
  y = draw(4, 6, seed=9)
  eigenvalue = np.linalg.eigvalsh(tangent_kernel(layers, x))[0]
  mu = squared_error_pl(eigenvalue, examples=4)

  def loss(params):
    z = x
    for own in params:
      z = residual_layer(own, z)
    return jnp.sum((z - y) ** 2) / 8

  value, grads = jax.value_and_grad(loss)([params for _, params in layers])
  assert float(optax.tree.norm(grads)) ** 2 / 2 >= mu * float(value)


def test_gradient_bound_of_cross_entropy():
  rng = np.random.default_rng(0)
  for classes in (2, 3, 10):
    logits = rng.normal(size=[2000, classes]) * rng.uniform(0.1, 6, [2000, 1])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(p[:, 0])
    squares = np.sum((p - np.eye(classes)[0]) ** 2, 1)
    for loss, square in zip(losses, squares, strict=True):
      if loss < 1e-6:  # 1 - p is lost to rounding
        continue
      mu = cross_entropy_pl(1.0, loss, classes)
      assert square / 2 >= mu * loss * (1 - 1e-9)
    # The mean of a batch: its gradient is that of each example over their number.
    for rows in range(0, 2000, 50):
      batch = slice(rows, rows + 50)
      mu = cross_entropy_pl(1.0, losses[batch], classes)
      assert squares[batch].sum() / 50**2 / 2 >= mu * losses[batch].mean() * (1 - 1e-9)


def test_constant_of_small_cross_entropy():
  assert cross_entropy_pl(2.0, 1e-6, 5) == pytest.approx(2 * 1e-6 / 2 * 5 / 4, rel=1e-5)
  assert cross_entropy_pl(2.0, 0.0, 5) == 0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: jacobian(lambda x: x, jnp.zeros(20_000)), "largest_singular_values"),
    (lambda: largest_singular_values(lambda x: x, jnp.zeros(3), k=4), "from 1 to 3"),
    (lambda: largest_singular_values(lambda x: x, jnp.zeros(3), k=0), "from 1 to 3"),
    (lambda: tangent_kernel_bound([], jnp.zeros(3)), "empty"),
    (lambda: squared_error_pl(-1.0), "eigenvalue=-1.0"),
    (lambda: squared_error_pl(1.0, examples=0), "examples=0"),
    (lambda: cross_entropy_pl(1.0, [-0.1], 10), "losses"),
    (lambda: cross_entropy_pl(1.0, [0.1], 1), "num_classes"),
  ],
)
def test_bad_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()
