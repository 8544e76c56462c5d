"""Linear residual networks against Sections 2 and 3 of Hardt & Ma, as corrected in the notes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from tatnet.diagnostics import linear_residual
from tatnet.diagnostics.linear_residual.rotations import largest_angle, rotation_root


def _rotation(size, rng, angles=None):
  """A random rotation, of given angles in given planes."""
  basis, upper = np.linalg.qr(rng.standard_normal([size, size]))
  if angles is None:
    basis *= np.sign(np.diag(upper))
    basis[0] *= np.linalg.det(basis)
    return basis
  blocks = [[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles]
  rest = np.eye(size - 2 * len(blocks))
  return basis @ scipy.linalg.block_diag(*blocks, rest) @ basis.T


def _target(size, gamma, rng):
  """A matrix with positive determinant and the given gamma."""
  values = np.exp(gamma * rng.uniform(-1, 1, size))
  values[0] = np.exp(gamma)
  return _rotation(size, rng) @ np.diag(values) @ _rotation(size, rng)


def _largest_norm(factors):
  return np.linalg.norm(factors, 2, axis=(1, 2)).max()


# The norms of the paper's own construction, which the one here must not exceed.
TABLE = [
  (4, 50, 1.84, 0.269, 0.679),
  (4, 200, 1.84, 0.069, 0.170),
  (7, 100, 6.68, 0.199, 0.781),
  (10, 200, 2.32, 0.0764, 0.195),
]


@pytest.mark.parametrize(("size", "layers", "gamma", "norm", "bound"), TABLE)
def test_factors_of_the_table(size, layers, gamma, norm, bound):
  assert linear_residual.small_norm_bound(gamma, layers) == pytest.approx(bound, abs=2e-3)
  for seed in range(5):
    target = _target(size, gamma, np.random.default_rng(seed))
    factors = linear_residual.small_norm_factors(target, layers)
    assert factors.shape == (layers, size, size)
    assert linear_residual.log_condition(target) == pytest.approx(gamma, rel=1e-9)
    np.testing.assert_allclose(linear_residual.end_to_end(factors), target, atol=1e-10)
    assert _largest_norm(factors) <= norm


def test_factors_at_any_gamma_and_number_of_layers():
  rng = np.random.default_rng(0)
  for trial in range(300):
    size = int(rng.integers(1, 7))
    target = _target(size, 10 ** rng.uniform(-6, 1), rng)
    if trial % 4 == 0 and size % 2 == 0:
      target = -scipy.linalg.expm(0.1 * np.diag(rng.standard_normal(size)))  # every angle is pi
    gamma = linear_residual.log_condition(target)
    layers = max(1, int(np.ceil(3 * gamma)) + int(rng.choice([0, 1, 2, 10, 50])))
    factors = linear_residual.small_norm_factors(target, layers)
    error = np.abs(linear_residual.end_to_end(factors) - target).max()
    assert error < 1e-11 * np.abs(target).max()
    assert _largest_norm(factors) <= linear_residual.small_norm_bound(gamma, layers)


def test_norm_falls_as_one_over_the_layers():
  target = _target(5, 1.5, np.random.default_rng(1))
  products = [
    layers * _largest_norm(linear_residual.small_norm_factors(target, layers))
    for layers in (50, 100, 200, 400, 800)
  ]
  assert max(products) / min(products) < 1.1


@pytest.mark.parametrize("layers", [6, 20, 101])
def test_positive_definite_target_needs_no_rotation(layers):
  """The special case of the theorem: norms of at most 3 gamma / layers."""
  basis = _rotation(4, np.random.default_rng(2))
  target = basis @ np.diag([0.2, 0.9, 1.0, 5.0]) @ basis.T
  factors = linear_residual.small_norm_factors(target, layers)
  assert _largest_norm(factors) <= 3 * np.log(5) / layers
  np.testing.assert_allclose(factors, np.swapaxes(factors, 1, 2), atol=1e-13)
  np.testing.assert_allclose(linear_residual.end_to_end(factors), target, atol=1e-12)


def test_identity_has_zero_factors():
  np.testing.assert_allclose(linear_residual.small_norm_factors(np.eye(3), 4), 0, atol=1e-15)


@pytest.mark.parametrize("distance", [0.0, 1e-15, 1e-13, 1e-10, 1e-8, 1e-5, 1e-2])
@pytest.mark.parametrize("seed", range(3))
def test_roots_of_rotations_near_half_turns(distance, seed):
  """Eigenvalues near -1, where the logarithm jumps, alone, equal, or among others."""
  rng = np.random.default_rng(seed)
  angles = np.pi - distance * rng.random(4)
  if seed == 1:
    angles[:] = np.pi - distance
  if seed == 2:
    angles[:2] = rng.random(2) * 3
  rotation = _rotation(9, rng, angles)
  root = rotation_root(rotation, 7)
  np.testing.assert_allclose(np.linalg.matrix_power(root, 7), rotation, atol=1e-12)
  np.testing.assert_allclose(root.T @ root, np.eye(9), atol=1e-12)
  assert largest_angle(root) <= np.pi / 7 + 1e-7


@pytest.mark.parametrize("size", [1, 2, 3, 8, 60])
def test_roots_equal_those_of_the_real_schur_form(size):
  rotation = _rotation(size, np.random.default_rng(size))
  logarithm = scipy.linalg.logm(rotation)
  expected = scipy.linalg.expm(np.real(logarithm) / 5)
  np.testing.assert_allclose(rotation_root(rotation, 5), expected, atol=1e-10)


def test_roots_of_permutations():
  for size in (3, 5, 9):
    cycle = np.roll(np.eye(size), 1, axis=0)
    np.testing.assert_allclose(
      np.linalg.matrix_power(rotation_root(cycle, 4), 4), cycle, atol=1e-13
    )


@pytest.mark.parametrize(
  ("target", "layers", "message"),
  [
    (np.diag([-1.0, 1.0]), 100, "negative determinant; expected a positive one.*sign of one row"),
    (np.diag([0.0, 1.0]), 100, "zero determinant"),
    (np.diag([np.e**4, 1.0]), 11, "11 layers .* gamma=4.*Use 12 layers or more"),
    (np.ones([2, 3]), 5, r"shape \(2, 3\); expected a square one"),
    (np.diag([np.nan, 1.0]), 5, "not finite"),
    (np.eye(2), 0, "layers=0"),
  ],
)
def test_targets_that_cannot_be_factorised_are_refused(target, layers, message):
  with pytest.raises(ValueError, match=message):
    linear_residual.small_norm_factors(target, layers)


def _problem(seed, size=4, layers=5, scale=0.2):
  rng = np.random.default_rng(seed)
  root = rng.standard_normal([size, size])
  return (
    scale * rng.standard_normal([layers, size, size]),
    rng.standard_normal([size, size]),
    root @ root.T,
  )


@pytest.mark.parametrize("seed", range(2))
def test_gradient_equals_finite_differences_and_automatic_ones(seed):
  factors, target, covariance = _problem(seed)
  slopes = linear_residual.gradient(factors, target, covariance)
  rng = np.random.default_rng(seed)
  for _ in range(5):
    direction = rng.standard_normal(factors.shape)
    ahead = linear_residual.loss(factors + 1e-5 * direction, target, covariance)
    behind = linear_residual.loss(factors - 1e-5 * direction, target, covariance)
    assert (ahead - behind) / 2e-5 == pytest.approx(np.sum(slopes * direction), rel=1e-5)

  with jax.enable_x64(True):
    root = jnp.linalg.cholesky(jnp.asarray(covariance))

    def loss(factors):
      product = jnp.eye(4)
      for factor in factors:
        product = (jnp.eye(4) + factor) @ product
      return jnp.sum(jnp.square((product - target) @ root))

    np.testing.assert_allclose(slopes, jax.jit(jax.grad(loss))(jnp.asarray(factors)), rtol=1e-9)


def test_loss_is_the_mean_squared_error_on_data():
  factors, target, _ = _problem(0)
  x = np.random.default_rng(1).standard_normal([4, 50])
  outputs = x
  for factor in factors:
    outputs = outputs + factor @ outputs
  expected = np.mean(np.sum((outputs - target @ x) ** 2, 0))
  assert linear_residual.loss(factors, target, x @ x.T / 50) == pytest.approx(expected)


@pytest.mark.parametrize("tau", [0.3, 0.9])
def test_gradient_is_at_least_its_bound(tau):
  rng = np.random.default_rng(0)
  for seed in range(200):
    factors, target, covariance = _problem(seed, 6, 8)
    factors *= tau * rng.uniform(0.1, 1) / _largest_norm(factors)
    squared = np.sum(linear_residual.gradient(factors, target, covariance) ** 2)
    for given in (tau, None):
      assert squared >= linear_residual.gradient_lower_bound(factors, target, covariance, given)


def test_bound_is_tight_and_the_printed_one_is_wrong():
  """A_i = -tau I, Sigma = I, E a multiple of I: the notes' 1.0000 and 0.0824."""
  tau, layers = 0.3, 8
  factors = np.stack([-tau * np.eye(6)] * layers)
  target = 2.0 * np.eye(6)
  squared = np.sum(linear_residual.gradient(factors, target) ** 2)
  bound = linear_residual.gradient_lower_bound(factors, target)
  printed = 4 * layers * (1 - tau) ** (layers - 1) * linear_residual.loss(factors, target)
  assert squared / bound == pytest.approx(1, rel=1e-12)
  assert squared / printed == pytest.approx(0.0824, abs=5e-5)


def test_printed_bound_is_wrong_for_large_inputs_too():
  factors, target, covariance = _problem(3, 6, 8)
  factors *= 0
  covariance = 50 * np.eye(6) + covariance
  squared = np.sum(linear_residual.gradient(factors, target, covariance) ** 2)
  smallest = np.linalg.eigvalsh(covariance)[0]
  bound = linear_residual.gradient_lower_bound(factors, target, covariance)
  assert squared >= bound
  assert squared < bound * smallest  # sigma_min squared, as printed


def test_descent_from_zero_finds_a_target_with_positive_determinant():
  """The notes: 1.40, then 6.2e-4, 2.4e-8 and 2e-20 after 30, 100 and 300 steps; norms 0.10."""
  noise = np.random.default_rng(1).standard_normal([6, 6]) / 6**0.5
  target = scipy.linalg.expm(0.5 * noise)
  assert np.linalg.det(target) == pytest.approx(1.24, abs=0.005)
  result = linear_residual.descend(target, 8, 0.01, 300)
  assert result.losses[0] == pytest.approx(1.40, abs=0.005)
  assert result.losses[30] == pytest.approx(6.2e-4, rel=0.02)
  assert result.losses[100] == pytest.approx(2.4e-8, rel=0.03)
  assert result.losses[300] < 1e-19
  assert result.largest_norms[-1] == pytest.approx(0.10, abs=0.005)
  np.testing.assert_allclose(linear_residual.end_to_end(result.factors), target, atol=1e-9)


def test_descent_stalls_where_the_determinant_is_negative():
  result = linear_residual.descend(np.diag([-1.0, 1, 1, 1, 1, 1]), 8, 0.01, 3000)
  found = result.losses[[0, 30, 100, 300, 3000]]
  np.testing.assert_allclose(found, [4.0, 1.20, 1.06, 1.02, 1.00], atol=0.006)
  assert result.largest_norms[-1] == pytest.approx(0.63, abs=0.005)
  assert np.all(np.diff(result.losses) < 0)
  assert np.all(result.losses >= 1)


def test_descent_stays_at_the_factors_of_the_theorem():
  target = _target(4, 0.5, np.random.default_rng(0))
  factors = linear_residual.small_norm_factors(target, 10)
  result = linear_residual.descend(target, 10, steps=5, start=factors)
  assert np.all(result.losses < 1e-25)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: linear_residual.loss(np.zeros([3, 2, 2]), np.eye(3)), r"expected \[layers, d, d\]"),
    (lambda: linear_residual.loss(np.zeros([2, 2]), np.eye(2)), r"factors of shape \(2, 2\)"),
    (
      lambda: linear_residual.gradient(np.zeros([3, 2, 2]), np.eye(2), -np.eye(2)),
      "positive semidefinite",
    ),
    (
      lambda: linear_residual.gradient_lower_bound(np.ones([3, 1, 1]), np.eye(1)),
      "tau=1; expected norms up to tau, and tau below 1",
    ),
    (
      lambda: linear_residual.gradient_lower_bound(np.full([3, 1, 1], 0.5), np.eye(1), tau=0.2),
      "norms up to 0.5 and tau=0.2",
    ),
    (lambda: linear_residual.descend(np.eye(2) * 9, 8, 1.0), "diverged in step .*Try 0.1"),
    (lambda: linear_residual.descend(np.eye(2), 8, -1.0), "step_size=-1.0"),
    (lambda: linear_residual.small_norm_bound(2.0, 5), "at least 3 gamma"),
  ],
)
def test_bad_arguments_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
