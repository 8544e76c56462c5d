"""EOC: published sizes of weights and biases, the fixed point itself, and where there is none."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import derivatives_of, expectation

import tatnet

SIGMA_B = (0.02, 0.05, 0.1, 0.2, 0.5)
# sigma_w for each sigma_b.
WEIGHTS = {
  "tanh": (1.066783, 1.122539, 1.193401, 1.304146, 1.549674),
  "erf": (0.944965, 0.993686, 1.055595, 1.152795, 1.371330),
  "swish": (1.960801, 1.905014, 1.820052, 1.679532, 1.456947),
  "gelu_exact": (1.937996, 1.851903, 1.727078, 1.547009, 1.399868),
  "elu": (1.087595, 1.131870, 1.176148, 1.229251, 1.306112),
}
FIXED_POINTS = {
  ("tanh", 0.02): 0.0759, ("tanh", 0.05): 0.1537, ("tanh", 0.1): 0.2733, ("tanh", 0.2): 0.5121,
  ("tanh", 0.5): 1.318, ("swish", 0.2): 0.6895, ("gelu_exact", 0.2): 0.5756,
}  # fmt: skip
FUNCTIONS = {
  "tanh": (jnp.tanh, ()),
  "erf": (jax.scipy.special.erf, ()),
  "swish": (jax.nn.silu, ()),
  "gelu": (jax.nn.gelu, ()),
  "gelu_exact": (functools.partial(jax.nn.gelu, approximate=False), ()),
  "elu": (jax.nn.elu, (0.0,)),
  "selu": (jax.nn.selu, (0.0,)),
  "bentid": (lambda x: (jnp.sqrt(x * x + 1) - 1) / 2 + x, ()),
  "atan": (jnp.arctan, ()),
  "asinh": (jnp.arcsinh, ()),
  "sin": (jnp.sin, ()),
  "mish": (jax.nn.mish, ()),
  "softsign": (jax.nn.soft_sign, (0.0,)),
  "hard_tanh": (jax.nn.hard_tanh, (-1.0, 1.0)),
  "relu6": (jax.nn.relu6, (0.0, 6.0)),
  "sigmoid": (jax.nn.sigmoid, ()),
}
derivatives = functools.cache(lambda name: derivatives_of(FUNCTIONS[name][0], 1))


def moments(name, q):
  """E[phi(sqrt(q) z)^2] and E[phi'(sqrt(q) z)^2] by adaptive quadrature."""
  kinks = [k / math.sqrt(q) for k in FUNCTIONS[name][1]]
  return expectation(lambda z: derivatives(name)(math.sqrt(q) * z) ** 2, kinks)


def solve(activation, sigma_b):
  return tatnet.transform_activation(activation, tatnet.chain(20), tatnet.EOC(sigma_b))


@pytest.mark.parametrize("name", WEIGHTS)
def test_published_values(name):
  for sigma_b, weight_scale in zip(SIGMA_B, WEIGHTS[name], strict=True):
    act = solve(name, sigma_b)
    assert act.weight_scale == pytest.approx(weight_scale, abs=5.1e-7)
    assert act.bias_scale == sigma_b
    if (name, sigma_b) in FIXED_POINTS:
      assert act.operating_q == pytest.approx(FIXED_POINTS[name, sigma_b], rel=1e-3)


@pytest.mark.parametrize("sigma_b", [*SIGMA_B, 2.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fixed_point_and_the_slope(name, sigma_b):
  act = solve(name, sigma_b)
  square, slope = moments(name, act.operating_q)
  q = act.weight_scale**2 * square + sigma_b**2
  assert q == pytest.approx(act.operating_q, rel=1e-10)
  assert act.weight_scale**2 * slope == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("name", ["tanh", "gelu_exact", "elu"])
def test_the_layer_keeps_what_the_record_says(name):
  """The record's maps are those of phi(W x + b), weights and biases included."""
  act = solve(name, 0.2)
  assert act.local.q == pytest.approx(act.operating_q, rel=1e-10)
  assert act.local.c_slope == pytest.approx(1, abs=1e-10)
  maps, q = tatnet.local_maps(act), act.operating_q
  assert maps.C(1.0) == pytest.approx(1, abs=1e-12)
  mean = expectation(lambda z: derivatives(name)(math.sqrt(q) * z)[0], FUNCTIONS[name][1])
  assert maps.C(0.0) == pytest.approx((act.weight_scale**2 * mean**2 + 0.04) / q, abs=1e-10)
  step = 1e-5
  difference = (maps.Q(q * (1 + step)) - maps.Q(q * (1 - step))) / (2 * step * q)
  assert act.local.q_slope == pytest.approx(difference, rel=1e-6)


def test_the_activation_itself_is_left_alone():
  act = solve("tanh", 0.2)
  fields = (act.input_scale, act.input_shift, act.output_shift, act.output_scale)
  assert fields == (None, None, None, None)
  x = np.linspace(-3, 3, 13, dtype=np.float32)
  np.testing.assert_array_equal(act(x), jnp.tanh(x))


def test_sigmoid_has_a_single_edge():
  act = solve("sigmoid", 0.0)
  assert act.weight_scale == pytest.approx(10.15, abs=5e-3)
  assert act.operating_q == pytest.approx(45.6, abs=5e-2)


@pytest.mark.parametrize("sigma_b", [0.01, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 5.0])
def test_square_in_closed_form(sigma_b):
  # E[z^4] q^2 / (4 q) + sigma_b^2 = q.
  act = solve("square", sigma_b)
  assert act.operating_q == pytest.approx(4 * sigma_b**2, rel=1e-10)
  assert act.weight_scale == pytest.approx(1 / (4 * sigma_b), rel=1e-10)


@pytest.mark.parametrize("name", ["tanh", "erf", "swish", "elu"])
@pytest.mark.parametrize("q", [0.1, 1.0, 10.0])
def test_a_fixed_point_at_a_round_number_is_found(name, q):
  square, slope = moments(name, q)
  act = solve(name, math.sqrt(q - square / slope))
  assert act.operating_q == pytest.approx(q, rel=1e-9)
  assert act.weight_scale == pytest.approx(1 / math.sqrt(slope), rel=1e-9)


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.01)])
def test_rectifiers_get_the_scale_of_he_initialisation(name, slope):
  act = solve(name, 0.0)
  assert act.output_scale == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-15)
  assert act.weight_scale is None
  maps = tatnet.local_maps(act)
  for q in (0.1, 1.0, 30.0):
    assert maps.Q(q) == pytest.approx(q, rel=1e-13)
    assert maps.c_slope(1.0, q, q) == pytest.approx(1, rel=1e-13)


def test_a_users_function_equals_the_named_one():
  act = solve(lambda x: jnp.tanh(x), 0.2)
  assert act.weight_scale == pytest.approx(1.304146, abs=5.1e-7)
  assert act.operating_q == pytest.approx(solve("tanh", 0.2).operating_q, rel=1e-10)


@pytest.mark.parametrize("sigma_b", [0.0, 0.01, 0.1, 1.0, 3.0])
def test_softplus_has_no_edge(sigma_b):
  with pytest.raises(ValueError, match=r"softplus.*edge of chaos") as error:
    solve("softplus", sigma_b)
  assert f"sigma_b={sigma_b or 0}" in str(error.value)


@pytest.mark.parametrize("name", ["tanh", "erf", "swish", "gelu", "elu", "sin"])
def test_without_biases_the_edge_is_at_zero(name):
  with pytest.raises(ValueError, match="EOC got sigma_b=0") as error:
    solve(name, 0.0)
  assert "edge of chaos lies at q = 0" in str(error.value)
  assert "EOC(0.2)" in str(error.value)
  # As sigma_b falls the fixed point does vanish.
  assert solve(name, 1e-3).operating_q < solve(name, 1e-2).operating_q < 0.1


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_rectifiers_refuse_biases(name):
  with pytest.raises(ValueError, match=f"EOC got sigma_b=0.1 for '{name}'") as error:
    solve(name, 0.1)
  assert "Expected sigma_b=0" in str(error.value)


def test_mixing_smooth_activations_is_refused():
  with pytest.raises(ValueError, match="EOC got tanh, gelu"):
    tatnet.transform_activations(("tanh", "gelu"), tatnet.chain(5), tatnet.EOC(0.2))
  acts = tatnet.transform_activations(("relu", "leaky_relu"), tatnet.chain(5), tatnet.EOC())
  assert {name: act.name for name, act in acts.items()} == {n: n for n in ("relu", "leaky_relu")}
