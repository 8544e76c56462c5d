"""Initialisation by one generator: the tree of Haiku's, the laws of the initialisers."""

import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import CifarResNet, HeNormal, fast_init

IMAGES = jnp.ones([2, 8, 8, 3])
SHAPED = tatnet.transform_activation("tanh", tatnet.chain(7), tatnet.DKS())


def forward(**options):
  def f(x, is_training=False):
    return CifarResNet(8, 10, **({"activation": SHAPED} | options))(x, is_training)

  return f


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"shortcut_weight": 0.5, "normalization": "weight"},
    {"normalization": "batch", "activation": jax.nn.relu, "shortcut_weight": None},
    {"residual_gain": 0.0, "activation": jax.nn.relu, "shortcut_weight": None},
    {"activation": tatnet.nets.PReLU()},
  ],
  ids=["shaped", "weight", "batch", "skipinit", "prelu"],
)
def test_trees_are_those_of_haiku(options):
  f, key = forward(**options), jax.random.key(0)
  expected = jax.eval_shape(lambda k: hk.transform_with_state(f).init(k, IMAGES, True), key)
  assert jax.eval_shape(lambda k: fast_init(f)(k, IMAGES, True), key) == expected


def test_trees_of_stacked_networks_are_those_of_haiku():
  def f(x):
    return tatnet.nets.MLP(8, 12, 10, activation=SHAPED)(x)

  key, x = jax.random.key(0), jnp.ones([2, 5])
  expected = jax.eval_shape(hk.transform_with_state(f).init, key, x)
  assert jax.eval_shape(fast_init(f), key, x) == expected
  params, _ = jax.jit(fast_init(f))(key, x)
  layers = np.asarray(next(params[name]["w"] for name in params if name.endswith("block/layer_1")))
  np.testing.assert_allclose(
    layers @ layers.swapaxes(1, 2), np.tile(np.eye(8), (11, 1, 1)), atol=1e-5
  )
  assert not np.allclose(layers[0], layers[1])


@pytest.fixture(scope="module")
def draw():
  return jax.jit(
    lambda key: fast_init(forward())(key, IMAGES)[0],
    compiler_options={"xla_backend_optimization_level": 0},
  )


@pytest.fixture(scope="module")
def params(draw):
  return jax.tree.map(np.asarray, draw(jax.random.key(0)))


def test_orthogonal_weights_are_orthogonal(params):
  checked = 0
  for name, layer in params.items():
    w = np.asarray(layer["w"], np.float64)
    if w.ndim == 4:
      taps, w = w.copy(), w[1, 1]
      taps[1, 1] = 0
      assert not taps.any()
    inputs, outputs = w.shape
    if inputs <= outputs:
      np.testing.assert_allclose(
        w @ w.T, outputs / inputs * np.eye(inputs), atol=1e-4, err_msg=name
      )
    else:
      np.testing.assert_allclose(w.T @ w, np.eye(outputs), atol=1e-4, err_msg=name)
    checked += 1
  assert checked == 8


def test_layers_and_keys_have_weights_of_their_own(params, draw):
  first, second = (params[f"cifar_resnet/stage_1_block_1/layer_{i}"]["w"] for i in (1, 2))
  assert first.shape == second.shape
  assert not np.allclose(first, second)
  jax.tree.map(np.testing.assert_array_equal, draw(jax.random.key(0)), params)
  other = draw(jax.random.key(1))
  assert all(not np.allclose(other[name]["w"], layer["w"]) for name, layer in params.items())


def test_compiled_or_not():
  """QR factors compiled in another order differ by rounding."""

  def f(x):
    x = hk.Linear(6, w_init=tatnet.ScaledUniformOrthogonal())(x)
    return hk.Linear(6, w_init=HeNormal())(x)

  key, x = jax.random.key(0), np.ones([1, 6], np.float32)
  compiled, plain = jax.jit(fast_init(f))(key, x), fast_init(f)(key, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), compiled, plain)


def test_gaussian_weights_have_the_variance_of_he():
  def f(x):
    for _ in range(3):
      x = hk.Linear(200, w_init=HeNormal(0.5))(x)
    return hk.Conv2D(30, 3, w_init=HeNormal())(x[:, :, None, None])

  params, _ = jax.jit(fast_init(f))(jax.random.key(0), jnp.ones([1, 200]))
  for name, inputs, slope in (("linear", 200, 0.5), ("linear_2", 200, 0.5), ("conv2_d", 9, 0.0)):
    w = np.asarray(params[name]["w"], np.float64)
    normals = w.ravel() / np.sqrt(2 / (1 + slope**2) / inputs)
    error = 1 / np.sqrt(len(normals))
    assert normals.mean() == pytest.approx(0, abs=4 * error)
    assert (normals**2).mean() == pytest.approx(1, abs=4 * np.sqrt(2) * error)
    assert (normals**4).mean() == pytest.approx(3, abs=4 * np.sqrt(96) * error)
  assert not np.allclose(params["linear"]["w"], params["linear_1"]["w"])


def test_layers_are_not_correlated():
  """They are slices of one stream of numbers, which must not overlap."""

  def f(x):
    for width in (100, 100, 60, 100):
      x = hk.Linear(width, w_init=HeNormal())(x)
    return x

  params, _ = jax.jit(fast_init(f))(jax.random.key(0), jnp.ones([1, 100]))
  streams = [np.ravel(layer["w"])[:6000] for layer in params.values()]
  correlations = np.corrcoef(streams) - np.eye(4)
  assert np.max(np.abs(correlations)) < 5 / np.sqrt(6000)


def test_other_initialisers_and_biases_are_drawn_by_haiku():
  def f(x):
    x = hk.Linear(50, w_init=HeNormal(), b_init=hk.initializers.Constant(3.0))(x)
    return hk.Linear(50, w_init=hk.initializers.RandomUniform(5.0, 6.0))(x)

  params, _ = jax.jit(fast_init(f))(jax.random.key(0), jnp.ones([1, 4]))
  assert np.all(params["linear"]["b"] == 3)
  assert np.all((params["linear_1"]["w"] >= 5) & (params["linear_1"]["w"] <= 6))


def test_many_networks_at_once():
  """Under vmap the matrices are factorised one after the other."""

  def f(x):
    return hk.nets.MLP([20, 20, 20], w_init=tatnet.ScaledUniformOrthogonal())(x)

  keys = jax.random.split(jax.random.key(0), 3)
  many, _ = jax.jit(jax.vmap(lambda key: fast_init(f)(key, jnp.ones([1, 20]))))(keys)
  for layer in many.values():
    w = np.asarray(layer["w"])
    np.testing.assert_allclose(w @ w.swapaxes(1, 2), np.tile(np.eye(20), (3, 1, 1)), atol=1e-5)
    assert not np.allclose(w[0], w[1])


def test_two_stacks_of_matrices_in_one_program_finish():
  """Two batched factorisations at once wait for each other for ever on two cores."""
  code = """
import jax, tatnet
draw = tatnet.scaled_uniform_orthogonal
keys = jax.random.split(jax.random.key(0), 12)
def both(keys):
  return [jax.vmap(lambda key: draw(key, shape))(keys) for shape in ((300, 300), (200, 400))]
print([w.shape for w in jax.block_until_ready(jax.jit(both)(keys))])
"""
  child = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
  )
  assert child.stdout.strip() == "[(12, 300, 300), (12, 200, 400)]"
