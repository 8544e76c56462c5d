"""What slope jumps add to the second derivative of a covariance kernel."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import derivatives_of, expectation

import tatnet
from tatnet.layer import activations, derivatives, kernels


def kernel_of(name):
  """The quadrature kernel, for the names that have a closed form as well."""
  activation = activations.ACTIVATIONS[name]
  return kernels.QuadratureKernel(activation.jet, activation.kinks)


@pytest.mark.parametrize(
  ("name", "jumps"),
  [("selu", [1.0507009873554805 * (1 - 1.6732632423543772)], ), ("elu", [0.0]), ("softsign", [0.0]),
   ("hard_tanh", [1.0, -1.0]), ("relu6", [1.0, -1.0]), ("relu", [1.0])],
)  # fmt: skip
def test_slope_jumps(name, jumps):
  np.testing.assert_allclose(kernel_of(name).slope_jumps, jumps, atol=1e-12)


# The functions themselves, without the closed-form jet that the names have.
USER_KINKS = [
  (jnp.abs, 0.0, 2.0),
  (jax.nn.relu, 0.0, 1.0),
  (lambda x: jnp.where(x > 0, x, 0.1 * x), 0.0, 0.9),
  (lambda x: jnp.maximum(x, 0.5), 0.5, 1.0),
]


@pytest.mark.parametrize(("function", "kink", "jump"), USER_KINKS)
def test_slope_jumps_of_a_users_function(function, kink, jump):
  own = tatnet.Activation(function, (kink,), "own")
  kernel = kernels.QuadratureKernel(
    own.jet, own.kinks
  )  # not the closed form that rectifiers are given
  np.testing.assert_allclose(kernel.slope_jumps, [jump], rtol=1e-12)
  assert kernel(2, 1.0, 1.0, 1.0) == math.inf
  h = 1e-3
  slope = (kernel(1, 0.5 + h, 1.0, 1.0) - kernel(1, 0.5 - h, 1.0, 1.0)) / (2 * h)
  assert kernel(2, 0.5, 1.0, 1.0) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "selu", "hard_tanh", "relu6"])
def test_curvature_is_infinite_where_two_corners_meet(name):
  assert kernel_of(name)(2, 1.0, 1.0, 1.0) == math.inf
  # Corners at 0 face themselves for opposite inputs; those of hard_tanh each other.
  assert kernel_of(name)(2, -1.0, 1.0, 1.0) == (-math.inf if name == "hard_tanh" else math.inf)


def test_corners_meet_only_at_equal_arguments():
  # At q1 != q2 the corners k / s1 and k / s2 differ, but for those at 0.
  assert kernel_of("hard_tanh")(2, 1.0, 1.0, 2.0) == 0.0
  assert kernel_of("relu6")(2, 1.0, 1.0, 2.0) == math.inf


def test_corners_of_either_sign_add_before_they_diverge():
  # |x| + |x - 1| - |x + 1|: at c = -1 the corner at 0 meets itself, those at 1 and -1 each
  # other with the opposite sign, and 8 density(1) > 4 density(0).
  absolute = functools.partial(derivatives.leaky_relu, negative_slope=-1.0)
  kernel = kernels.QuadratureKernel(
    lambda x: absolute(x) + absolute(x - 1) - absolute(x + 1), (-1.0, 0.0, 1.0)
  )
  assert kernel(2, -1 + 1e-9, 1.0, 1.0) < -1000
  assert kernel(2, -1.0, 1.0, 1.0) == -math.inf


@pytest.mark.parametrize("name", ["softsign", "elu"])
def test_curvature_stays_finite_where_only_phi2_jumps(name):
  values = derivatives_of(activations.ACTIVATIONS[name].function, 2)
  expected = expectation(lambda z: values(z)[2] ** 2, (0.0,))
  assert kernel_of(name)(2, 1.0, 1.0, 1.0) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "selu", "hard_tanh", "relu6"])
@pytest.mark.parametrize(
  ("scale", "shift"), [(1.0, 0.0), (0.25, 0.0), (0.1, 0.3), (-0.4, 0.7), (0.9, -1.1), (0.3, 0.2)]
)
def test_corners_survive_scales_and_shifts(name, scale, shift):
  act = tatnet.TransformedActivation(name, input_scale=scale, input_shift=shift)
  # A corner may lie too far out for the curvature to matter, but not for it to be finite.
  assert act.maps.c_curvature(1.0) == math.inf
  h = 1e-3
  slope = (act.maps.c_slope(0.4 + h) - act.maps.c_slope(0.4 - h)) / (2 * h)
  assert act.maps.c_curvature(0.4) == pytest.approx(slope, rel=1e-4, abs=1e-9)
