"""Losses: their values, and random gradients whose covariance is their Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit

from tatnet import optim

OUTPUTS = np.array([[0.5, -1.0, 2.0], [3.0, 0.1, 0.0]])
LABELS = np.array([2, 1])
BINARY = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
REAL = np.array([[0.3, 1.0, -2.0], [0.0, 4.0, 1.0]])


def poisson():
  return optim.NegativeLogLikelihood(
    log_prob=lambda rate, n: (n * rate - jnp.exp(rate) - jax.lax.lgamma(n + 1.0)).sum(-1),
    sample=lambda key, rate: jax.random.poisson(key, jnp.exp(rate)).astype(rate.dtype),
  )


LOSSES = {
  "softmax": (optim.SoftmaxCrossEntropy(), LABELS),
  "smoothed softmax": (optim.SoftmaxCrossEntropy(0.1), LABELS),
  "soft labels": (optim.SoftmaxCrossEntropy(), np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])),
  "sigmoid": (optim.SigmoidCrossEntropy(), BINARY),
  "squared": (optim.SquaredError(), REAL),
  "poisson": (poisson(), np.array([[1.0, 0.0, 5.0], [20.0, 2.0, 1.0]])),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def log_softmax(z):
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def value(name):
  """Values by their textbook formulas."""
  logp, p = log_softmax(OUTPUTS), 1 / (1 + np.exp(-OUTPUTS))
  _, targets = LOSSES[name]
  if name == "softmax":
    return -logp[np.arange(2), LABELS]
  if name == "smoothed softmax":
    return -0.9 * logp[np.arange(2), LABELS] - 0.1 * logp.mean(-1)
  if name == "soft labels":
    return -(targets * logp).sum(-1)
  if name == "sigmoid":
    return -np.log(np.where(BINARY == 1, p, 1 - p)).sum(-1)
  if name == "squared":
    return np.square(OUTPUTS - REAL).sum(-1) / 2
  factorials = np.array([[1, 1, 120], [2432902008176640000, 2, 1]], float)
  mean = np.exp(OUTPUTS)
  return -np.log(mean**targets * np.exp(-mean) / factorials).sum(-1)


def hessians(name):
  """Hessians ``[batch, outputs, outputs]`` of the losses of single examples, by JAX."""
  loss, targets = LOSSES[name]
  one = jax.hessian(lambda z, y: loss.per_example(z[None], y[None])[0])
  return np.asarray(jax.vmap(one)(jnp.asarray(OUTPUTS), jnp.asarray(targets)))


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@every_loss
def test_values_are_those_of_the_formulas(name):
  loss, targets = LOSSES[name]
  found = loss.per_example(jnp.asarray(OUTPUTS), jnp.asarray(targets))
  np.testing.assert_allclose(found, value(name), rtol=1e-12)


@every_loss
def test_sampled_gradients_have_mean_zero_and_the_hessian_as_covariance(name):
  loss, _ = LOSSES[name]
  count = 20_000
  keys = jax.random.split(jax.random.key(0), count)
  samples = quick_jit(jax.vmap(lambda key: loss.fisher_sample(key, jnp.asarray(OUTPUTS))))(keys)
  samples, expected = np.asarray(samples), hessians(name)
  scale = np.sqrt(np.einsum("bii->bi", expected))
  # Six standard deviations of a mean.
  assert np.abs(samples.mean(axis=0) / scale).max() < 6 / np.sqrt(count)
  moments = np.einsum("nbi,nbj->bij", samples, samples) / count
  units = scale[:, :, None] * scale[:, None, :]
  # Rare labels have heavy tails: what counts is their kurtosis.
  kurtosis = np.mean((samples / scale) ** 4, axis=0).max()
  assert np.abs((moments - expected) / units).max() < 6 * np.sqrt(kurtosis / count)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "poisson"])
def test_root_of_the_hessian_squares_to_it(name):
  loss, _ = LOSSES[name]
  columns = [loss.hessian_root(jnp.asarray(OUTPUTS), jnp.tile(e, (2, 1))) for e in jnp.eye(3)]
  root = np.stack(columns, axis=-1)
  np.testing.assert_allclose(root @ np.swapaxes(root, 1, 2), hessians(name), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "poisson"])
def test_locations_of_an_example_add_up(name):
  loss, targets = LOSSES[name]
  one = loss.per_example(jnp.asarray(OUTPUTS), jnp.asarray(targets))
  # One example whose two locations are the two examples.
  together = loss.per_example(jnp.asarray(OUTPUTS)[None], jnp.asarray(targets)[None])
  np.testing.assert_allclose(together, [one.sum()], rtol=1e-12)


def test_locations_draw_their_targets_independently():
  keys = jax.random.split(jax.random.key(0), 5000)
  outputs = jnp.zeros((1, 2, 2))
  samples = jax.vmap(lambda key: optim.SoftmaxCrossEntropy().fisher_sample(key, outputs))(keys)
  first, second = np.asarray(samples)[:, 0, :, 0].T
  assert abs(np.corrcoef(first, second)[0, 1]) < 6 / np.sqrt(5000)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_confident_predictions_have_finite_gradients(name):
  loss, _ = LOSSES[name]
  outputs = jnp.array([[1e4, -1e4, 0.0], [-300.0, 300.0, 0.0]])
  sample = loss.fisher_sample(jax.random.key(0), outputs)
  root = loss.hessian_root(outputs, jnp.ones_like(outputs))
  assert np.isfinite(sample).all()
  assert np.isfinite(root).all()


def test_losses_are_equal_and_hashable_by_their_numbers():
  # So that they may be static arguments.
  assert optim.SoftmaxCrossEntropy(0.1) == optim.SoftmaxCrossEntropy(0.1)
  assert hash(optim.SoftmaxCrossEntropy(0.1)) == hash(optim.SoftmaxCrossEntropy(0.1))
  assert optim.SoftmaxCrossEntropy(0.1) != optim.SoftmaxCrossEntropy()
