"""The recursion over tokens: against quadrature, and against wide networks that run."""

import functools
import math

import jax
import numpy as np
import pytest

import tatnet
from tatnet.attention import exponential_schedule, token_kernels, uniform_schedule

TOKENS, WIDTH = 12, 512


def random_kernel(seed, tokens=5):
  features = (
    np.random.default_rng(seed).normal(size=(tokens, 7)) * np.arange(1, tokens + 1)[:, None]
  )
  return features @ features.T / 14


@pytest.mark.parametrize("name", ["tanh", "softplus", "leaky_relu", "hard_tanh"])
def test_kernels_with_two_q_values_against_a_plain_quadrature(name):
  act = tatnet.TransformedActivation(name, input_scale=0.7)
  kernel = random_kernel(0)
  (found,) = token_kernels(kernel, [act])
  points, weights = np.polynomial.hermite_e.hermegauss(301)
  weights = weights / weights.sum()
  for i in range(5):
    for j in range(5):
      pair = kernel[np.ix_([i, j], [i, j])]
      root = np.linalg.cholesky(pair + 1e-13 * np.eye(2))
      x = root[0, 0] * points[:, None] + 0 * points
      y = root[1, 0] * points[:, None] + root[1, 1] * points
      values = [act.jet(v.ravel())[0].reshape(301, 301) for v in (x, y)]
      expected = weights @ (values[0] * values[1]) @ weights
      tolerance = 2e-3 if name in ("leaky_relu", "hard_tanh") else 1e-6
      assert found[i, j] == pytest.approx(expected, abs=tolerance * (1 + abs(expected)))


def schemes():
  joint = tatnet.sequence(*[tatnet.mixing(0.05), tatnet.chain(2)] * 4)
  relu = tatnet.transform_activation("leaky_relu", joint, tatnet.TAT(0.8))
  smooth = tatnet.transform_activation("tanh", joint, tatnet.DKS(1.5))
  alone = tatnet.transform_activation("leaky_relu", tatnet.chain(8), tatnet.TAT(0.8))
  return {
    "joint, causal": (tatnet.attention_schedule(joint, relu), relu),
    "joint, both ways": (tatnet.attention_schedule(joint, relu, causal=False), relu),
    "joint, tanh": (tatnet.attention_schedule(joint, smooth), smooth),
    "E-SPA": (exponential_schedule(4), alone),
    "E-SPA, both ways": (exponential_schedule(4, causal=False, tokens=TOKENS), alone),
    "E-SPA, tanh": (exponential_schedule(4), tatnet.TransformedActivation("tanh")),
    "U-SPA": (uniform_schedule(4), alone),
  }


@functools.cache
def haar():
  q, r = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))
  return np.float32(q * np.sign(np.diag(r)))


def measured(matrices, activation, seed):
  """Kernels of one network that runs, behind every layer."""
  rng = np.random.default_rng(seed)
  turn = haar()

  def dense(x):  # orthogonal weights: signs and places drawn for each layer, and a common turn
    signs = rng.choice(np.float32([-1, 1]), WIDTH)
    return (x[:, rng.permutation(WIDTH)] * signs) @ turn

  left, _, right = np.linalg.svd(rng.standard_normal((TOKENS, WIDTH)), full_matrices=False)
  x = math.sqrt(WIDTH) * (left @ right).astype(np.float32)  # tokens without anything in common
  found = []
  for matrix in matrices:
    x = dense(matrix.astype(np.float32) @ dense(x))
    found.append(x @ x.T / WIDTH)
    for _ in range(2):
      x = np.asarray(activation(dense(x)))
      found.append(x @ x.T / WIDTH)
  return np.stack(found)


@pytest.mark.parametrize("name", schemes())
def test_networks_of_width_512_have_the_predicted_kernels(name):
  schedule, act = schemes()[name]
  matrices = [schedule.as_matrix(n, TOKENS) for n in range(4)]
  layers = [x for matrix in matrices for x in (matrix, act, act)]
  predicted = np.stack(token_kernels(np.eye(TOKENS), layers))
  kernels = np.stack([measured(matrices, act, seed) for seed in range(8)])
  q = np.diagonal(kernels, axis1=2, axis2=3)
  cosines = kernels / np.sqrt(q[..., :, None] * q[..., None, :])
  size = np.sqrt(np.diagonal(predicted, axis1=1, axis2=2))
  expected = predicted / (size[:, :, None] * size[:, None, :])
  assert np.abs(cosines.mean(0) - expected).max() < 0.05
  # Each of up to 8 nonlinear layers scatters q by up to sqrt(5 / width).
  np.testing.assert_allclose(q.mean(0), size**2, rtol=4 * math.sqrt(5 * 8 / WIDTH / 8))


def test_rank_collapse_without_any_plan():
  """Gaussian logits leave tokens alike after a few blocks, whatever the activation."""
  rng = np.random.default_rng(0)
  act = tatnet.transform_activation("leaky_relu", tatnet.chain(8), tatnet.TAT(0.8))
  x = rng.standard_normal((32, 256))
  for _ in range(4):
    q, k, v = (x @ rng.standard_normal((256, 256)) / 16 for _ in range(3))
    x = np.asarray(jax.nn.softmax(q @ k.T / 16)) @ v
    for _ in range(2):
      x = np.asarray(act(x @ rng.standard_normal((256, 256)) / 16))
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  assert (x @ x.T)[~np.eye(32, dtype=bool)].mean() > 0.999


@pytest.mark.parametrize(
  ("kernel", "layers", "error", "part"),
  [
    (np.ones(3), [], ValueError, r"\(3,\)"),
    (np.array([[1.0, 0.2], [0.3, 1.0]]), [], ValueError, "symmetric"),
    (np.zeros([2, 2]), [], ValueError, "above 0"),
    (np.eye(3), [np.eye(4)], ValueError, r"\(4, 4\)"),
    (np.eye(3), [object()], TypeError, "a matrix"),
    (np.eye(3), ["tahn"], ValueError, "Did you mean 'tanh'"),
  ],
)
def test_bad_input(kernel, layers, error, part):
  with pytest.raises(error, match=part):
    token_kernels(kernel, layers)
