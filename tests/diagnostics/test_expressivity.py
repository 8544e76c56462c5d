"""The ReLU network of Theorem 3.2 of Hardt & Ma that fits any sample."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tatnet.diagnostics.expressivity import (
  ExpressiveResNet,
  default_width,
  expressive_network,
  expressive_parameter_count,
)


def _sample(n, d, r, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.standard_normal([n, d])
  return inputs / np.linalg.norm(inputs, axis=1, keepdims=True), rng.integers(0, r, n)


# The notes' table: parameters, and their number over n ln n + r^2.
TABLE = [
  (500, 50, 10, 63, 8, 67_390, 21.0),
  (2000, 100, 10, 77, 26, 318_580, 20.8),
  (2000, 100, 100, 77, 26, 335_500, 13.3),
  (5000, 784, 10, 86, 59, 933_394, 21.9),
]


@pytest.mark.parametrize(("n", "d", "r", "k", "blocks", "count", "ratio"), TABLE)
def test_parameter_counts_of_the_table(n, d, r, k, blocks, count, ratio):
  assert default_width(n, r) == k
  assert -(-n // k) == blocks
  assert expressive_parameter_count(n, d, r) == count
  assert count / (n * np.log(n) + r**2) == pytest.approx(ratio, abs=0.06)


@pytest.mark.parametrize(("n", "d", "r", "k", "blocks", "count", "ratio"), TABLE[:3])
def test_networks_of_the_table_fit_exactly(n, d, r, k, blocks, count, ratio):
  inputs, labels = _sample(n, d, r)
  network = expressive_network(inputs, labels, r)
  assert (network.width, len(network.hidden), network.num_parameters) == (k, blocks, count)
  outputs = network(jnp.asarray(inputs, jnp.float32))
  assert np.abs(outputs - np.eye(r)[labels]).max() < 5e-3
  assert np.all(np.argmax(outputs, 1) == labels)


def test_fit_is_exact_to_rounding_in_float64():
  inputs, labels = _sample(500, 50, 10)
  with jax.enable_x64(True):
    network = expressive_network(inputs, labels, 10, dtype=jnp.float64)
    outputs = np.asarray(network(jnp.asarray(inputs)))
  assert np.abs(outputs - np.eye(10)[labels]).max() < 1e-11


@pytest.mark.parametrize(
  ("n", "d", "r", "width"),
  [
    (1, 3, 1, None),
    (1, 3, 4, None),
    (2, 1, 2, None),  # +1 and -1
    (30, 4, 3, 4),
    (30, 40, 3, 30),
    (40, 5, 60, 12),  # more classes than units of the stream: the shortcut is padded
    (40, 5, 2, 12),  # fewer: it is cut off
  ],
)
def test_sizes_at_the_edges(n, d, r, width):
  inputs, labels = _sample(n, d, r)
  if d == 1:
    inputs = np.array([[1.0], [-1.0]])
  network = expressive_network(inputs, labels, r, width=width)
  outputs = network(jnp.asarray(inputs, jnp.float32))
  assert outputs.shape == (n, r)
  assert np.abs(outputs - np.eye(r)[labels]).max() < 0.01
  assert network.num_parameters == expressive_parameter_count(n, d, r, network.width)


def test_random_labels_and_seeds():
  inputs, _ = _sample(200, 20, 2)
  for seed in range(3):
    labels = np.random.default_rng(seed).integers(0, 2, 200)
    outputs = expressive_network(inputs, labels, seed=seed)(jnp.asarray(inputs, jnp.float32))
    assert np.all(np.argmax(outputs, 1) == labels)


def test_repeated_examples_cost_nothing():
  inputs, labels = _sample(50, 10, 3)
  twice = expressive_network(np.repeat(inputs, 2, 0), np.repeat(labels, 2), 3)
  assert twice.num_parameters == expressive_network(inputs, labels, 3).num_parameters


def test_parameters_are_those_of_an_ordinary_haiku_network():
  inputs, labels = _sample(100, 12, 3)
  found = expressive_network(inputs, labels, 3)

  def forward(x):
    return ExpressiveResNet(found.width, found.hidden, 3)(x)

  network = hk.without_apply_rng(hk.transform(forward))
  x = jnp.asarray(inputs, jnp.float32)
  fresh = jax.eval_shape(network.init, jax.random.key(0), x)
  shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
  assert shapes(fresh) == shapes(found.params)
  np.testing.assert_allclose(network.apply(found.params, x), found(x), rtol=1e-6)
  np.testing.assert_allclose(
    hk.without_apply_rng(hk.transform(found.forward)).apply(found.params, x), found(x), rtol=1e-6
  )


def test_network_can_be_fine_tuned():
  """Gradient descent repairs weights that were disturbed."""
  inputs, labels = _sample(40, 40, 3)
  found = expressive_network(inputs, labels, 3)
  x, y = jnp.asarray(inputs, jnp.float32), jax.nn.one_hot(labels, 3)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: leaf * (1 + 0.03 * rng.standard_normal(leaf.shape)).astype(np.float32),
    found.params,
  )
  optimizer = optax.adam(1e-3)

  @jax.jit
  def step(params, state):
    value, slopes = jax.value_and_grad(
      lambda p: jnp.mean(jnp.square(found.transformed.apply(p, x) - y))
    )(params)
    updates, state = optimizer.update(slopes, state, params)
    return optax.apply_updates(params, updates), state, value

  state, losses = optimizer.init(params), []
  for _ in range(100):
    params, state, value = step(params, state)
    losses.append(float(value))
  assert losses[0] > 1e-3
  assert losses[-1] < losses[0] / 10


INPUTS, LABELS = _sample(10, 4, 2)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda: expressive_network(3 * INPUTS, LABELS),
      ValueError,
      "norms from 3 to 3; expected inputs of norm 1. Divide",
    ),
    (
      lambda: expressive_network(INPUTS * np.nan, LABELS),
      ValueError,
      "expected inputs of norm 1",
    ),
    (
      lambda: expressive_network(INPUTS[[0, 1, 0]], np.array([0, 1, 1])),
      ValueError,
      r"different labels, such as examples \[0, 2\] with labels \[0, 1\]",
    ),
    (lambda: expressive_network(INPUTS, LABELS + 1.0), TypeError, "dtype float64"),
    (
      lambda: expressive_network(INPUTS, LABELS + 5, 3),
      ValueError,
      "for 3 classes; expected 0 to 2",
    ),
    (lambda: expressive_network(INPUTS, LABELS - 1), ValueError, "labels from -1"),
    (lambda: expressive_network(INPUTS[:, :, None], LABELS), ValueError, "Flatten images"),
    (lambda: expressive_network(INPUTS, LABELS[1:]), ValueError, r"labels of shape \(9,\)"),
    (lambda: expressive_network(INPUTS, LABELS, width=0), ValueError, "width=0"),
    (lambda: expressive_parameter_count(0, 3, 2), ValueError, "num_examples=0"),
  ],
)
def test_bad_arguments_are_refused(call, error, message):
  with pytest.raises(error, match=message):
    call()


def test_points_too_close_for_the_precision_are_refused():
  inputs = np.array([[1.0, 0.0], [1.0, 1e-9], [0.0, 1.0]])
  with pytest.raises(ValueError, match=r"closest two are 1e-09 apart.*float64"):
    expressive_network(inputs, np.array([0, 1, 0]))


def test_too_narrow_a_projection_is_refused():
  inputs, labels = _sample(100, 20, 3)
  with pytest.raises(ValueError, match=r"width 2 .*larger width \(20 keeps all distances\)"):
    expressive_network(inputs, labels, width=2)
