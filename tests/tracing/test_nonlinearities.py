"""Nonlinearities that a model brings itself: found, with maps at the q that enters them."""

import math

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import tatnet

SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
INPUT = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def read(apply, layers):
  """Topology of apply(weights, x) with as many weights as there are layers."""
  return tatnet.trace_apply(apply, [SQUARE] * layers, INPUT)


def layers_of(topology):
  return [part for part in topology.subnetworks() if isinstance(part, type(tatnet.nonlinear()))]


@jax.custom_jvp
def with_own_jvp(x):
  return jnp.arctan(x) + 0.2 * x


@with_own_jvp.defjvp
def _(primals, tangents):
  (x,), (t,) = primals, tangents
  return with_own_jvp(x), t / (1 + x * x) + 0.2 * t


def quick_gelu(x):
  return x * jax.nn.sigmoid(1.702 * x)


def two_slopes(x):
  return jnp.where(x > 0.5, 2 * x - 0.5, x)


def three_pieces(x):
  return jnp.where(x < -1, -1.0, jnp.where(x < 0.5, x, 0.5 + 0.1 * (x - 0.5)))


# name: (function, kinks, factor on the unit-q signal that enters it)
FUNCTIONS = {
  "gelu": (jax.nn.gelu, (), 0.7),
  "exact gelu": (lambda x: jax.nn.gelu(x, approximate=False), (), 1.0),
  "silu": (jax.nn.silu, (), 1.6),
  "silu by hand": (lambda x: x / (1 + jnp.exp(-x)), (), 1.0),
  "relu": (jax.nn.relu, (0.0,), 0.7),
  "relu by hand": (lambda x: jnp.maximum(x, 0), (0.0,), 1.0),
  "relu of -x": (lambda x: jax.nn.relu(-x), (0.0,), 1.3),
  "leaky relu": (lambda x: jax.nn.leaky_relu(x, 0.3), (0.0,), 1.3),
  "leaky relu, negative": (lambda x: jax.nn.leaky_relu(x, -0.4), (0.0,), 1.0),
  "abs": (jnp.abs, (0.0,), 0.7),
  "softplus": (jax.nn.softplus, (), 0.7),
  "mish": (jax.nn.mish, (), 1.0),
  "elu": (jax.nn.elu, (0.0,), 0.7),
  "tanh": (jnp.tanh, (), 2.0),
  "sigmoid": (jax.nn.sigmoid, (), 1.0),
  "quick gelu": (quick_gelu, (), 0.8),
  "clip": (lambda x: jnp.clip(x, -1, 1), (-1.0, 1.0), 1.5),
  "skewed clip": (lambda x: jnp.clip(x, -0.4, 2), (-0.4, 2.0), 1.0),
  "hard swish": (jax.nn.hard_swish, (-3.0, 3.0), 1.0),
  "shifted relu": (lambda x: jax.nn.relu(x - 0.5) + 0.1, (0.5,), 0.9),
  "two slopes": (two_slopes, (0.5,), 0.7),
  "three pieces": (three_pieces, (-1.0, 0.5), 1.2),
  "polynomial": (lambda x: 0.5 * x**3 - x, (), 0.9),
  "sine": (lambda x: jnp.sin(2 * x + 0.3), (), 1.0),
  "own jvp": (with_own_jvp, (), 1.0),
  "jitted": (jax.jit(lambda x: jnp.arctan(x) ** 2), (), 1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_map_of_a_lone_nonlinearity(name):
  function, kinks, scale = FUNCTIONS[name]
  topology = read(lambda w, x: function(scale * (x @ w[0])) @ w[1], 2)
  assert topology.num_nonlinear == 1
  local = topology.activation.local
  expected = references.local_conditions(lambda z: function(scale * z), [k / scale for k in kinks])
  # As a topology's layer it has unit q: its own size is passed on as a factor.
  assert local.q == pytest.approx(1, abs=1e-12)
  assert local.q_slope == pytest.approx(expected["q_slope"] / expected["q"], abs=1e-9)
  assert local.c0 == pytest.approx(expected["c0"], abs=1e-9)
  assert local.c_slope == pytest.approx(expected["c_slope"], rel=1e-9)
  assert local.c_curvature == pytest.approx(expected["c_curvature"], rel=1e-8)


@pytest.mark.parametrize("name", ["quick gelu", "three pieces", "leaky relu"])
def test_the_map_away_from_the_ends(name):
  function, kinks, scale = FUNCTIONS[name]
  activation = read(lambda w, x: function(scale * (x @ w[0])) @ w[1], 2).activation

  def f(z):
    return float(np.asarray(function(jnp.asarray(z))))

  with jax.enable_x64(True):
    lines = [k / scale for k in kinks]
    q = references.covariance(lambda z: f(scale * z), 1.0, kinks=lines)
    mixed = references.covariance(lambda z: f(scale * z), 0.5, kinks=lines)
  assert activation.maps.C(0.5) == pytest.approx(mixed / q, abs=1e-8)


def second_moment(function, scale=1.0):
  return references.expectation(lambda z: float(function(scale * z)) ** 2)


def test_q_is_carried_from_layer_to_layer():
  """tanh of half a unit signal, then tanh of three times what that leaves."""
  topology = read(lambda w, x: jnp.tanh(3 * (jnp.tanh(0.5 * (x @ w[0])) @ w[1])) @ w[2], 3)
  _, second = layers_of(topology)
  q = second_moment(math.tanh, 0.5)
  expected = references.local_conditions(lambda z: jnp.tanh(3 * math.sqrt(q) * z))
  assert second.activation.local.c_slope == pytest.approx(expected["c_slope"], rel=1e-9)
  assert second.activation.local.c_curvature == pytest.approx(expected["c_curvature"], rel=1e-9)
  composed = tatnet.cmap(topology, "relu", 0.3)
  first = tatnet.local_maps("tanh").C(0.3, 0.25, 0.25)
  assert composed == pytest.approx(tatnet.local_maps("tanh").C(first, 9 * q, 9 * q), abs=1e-12)


def test_a_q_that_fades_is_warned_of():
  with pytest.warns(tatnet.TopologyWarning, match="q far from 1"):
    read(lambda w, x: jnp.tanh(0.01 * (x @ w[0])) @ w[1], 2)


def test_marked_and_lone_ones_in_one_net():
  """tanh, scaled to unit q by hand, between two layers to be solved for."""
  size = math.sqrt(second_moment(math.tanh))

  def apply(w, x, activation):
    return activation(jnp.tanh(activation(x @ w[0]) @ w[1]) / size @ w[2])

  topology = read(apply, 3)
  assert topology.num_nonlinear == 3
  tanh = references.local_conditions(jnp.tanh)
  maps = {layer.activation: lambda y: tanh["c_slope"] * y for layer in layers_of(topology)}
  maps[None] = lambda y: 1.1 * y
  assert topology.maximum(1.0, maps) == pytest.approx(1.1**2 * tanh["c_slope"], rel=1e-9)


def test_dks_reaches_its_target_around_layers_that_stay():
  size = math.sqrt(second_moment(math.tanh))

  def apply(w, x, activation):
    x = x @ w[0]
    for first, second in ((1, 2), (3, 4)):
      y = jnp.tanh(activation(x) @ w[first]) @ w[second]
      x = 0.6 * x + 0.8 / size * y
    return activation(x)

  shaped = tatnet.transform_activation("softplus", read(apply, 5), tatnet.DKS(zeta=1.5))
  own = references.local_conditions(shaped)
  assert own["q"] == pytest.approx(1, abs=1e-9)
  assert own["c0"] == pytest.approx(0, abs=1e-9)
  tanh, slope = references.local_conditions(jnp.tanh)["c_slope"], 1.0
  for _ in range(2):
    slope = 0.36 * slope + 0.64 * tanh * own["c_slope"] * slope
  assert own["c_slope"] * slope == pytest.approx(1.5, abs=1e-8)


def test_tat_names_the_layer_that_it_cannot_have():
  size = math.sqrt(second_moment(math.tanh))
  topology = read(lambda w, x, activation: jnp.tanh(activation(x @ w[0]) @ w[1]) / size @ w[2], 3)
  with pytest.raises(ValueError, match=r"'tanh'.*which the network keeps"):
    tatnet.transform_activation("softplus", topology, tatnet.TAT())


@pytest.mark.parametrize("name", ["softplus", "leaky_relu", "tanh"])
def test_a_transformed_activation_in_the_model(name):
  """Solved for a chain of six and put into the model: the model meets the target."""
  method = tatnet.DKS(1.5) if name != "leaky_relu" else tatnet.TAT(0.6)
  shaped = tatnet.transform_activation(name, tatnet.chain(6), method)

  def forward(x):
    for _ in range(6):
      x = shaped(hk.Linear(8)(x))
    return hk.Linear(2)(x)

  topology = tatnet.trace(forward, INPUT)
  assert topology.num_nonlinear == 6
  for layer in layers_of(topology):
    assert layer.activation.local.c_slope == pytest.approx(shaped.local.c_slope, rel=1e-9)
    assert layer.activation.local.c0 == pytest.approx(shaped.local.c0, abs=1e-9)
  expected = tatnet.cmap(tatnet.chain(6), shaped, 0.2)
  assert tatnet.cmap(topology, "relu", 0.2) == pytest.approx(expected, abs=1e-9)


def test_unit_q_transformed_activations_beside_the_marked():
  """A shaped layer keeps q = 1, so the layers after it may be solved for."""
  shaped = tatnet.transform_activation("softplus", tatnet.chain(4), tatnet.DKS(1.5))
  topology = read(lambda w, x, activation: activation(shaped(x @ w[0]) @ w[1]), 2)
  again = tatnet.transform_activation("softplus", topology, tatnet.DKS(1.5))
  assert again.local.c_slope * shaped.local.c_slope == pytest.approx(1.5, abs=1e-9)


def test_prelu_acts_with_its_initial_slope():
  def forward(x, activation):
    slope = hk.get_parameter("slope", (8,), init=hk.initializers.Constant(0.25))
    x = hk.Linear(8)(x)
    return hk.Linear(8)(jnp.where(x >= 0, x, slope * x))

  activation = tatnet.trace(forward, INPUT).activation
  assert activation.name == "leaky_relu"
  assert activation.negative_slope == 0.25
  expected = references.local_conditions(lambda z: jax.nn.leaky_relu(z, 0.25), [0.0])
  assert activation.local.c0 == pytest.approx(expected["c0"], abs=1e-12)


def test_prelu_of_flax():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3)(nn.PReLU(negative_slope_init=0.1)(nn.Dense(8)(x)))

  parameters = Net().init(jax.random.key(0), jnp.ones([4, 8]))
  activation = tatnet.trace_apply(Net().apply, parameters, INPUT).activation
  expected = references.local_conditions(lambda z: jax.nn.leaky_relu(z, 0.1), [0.0])
  assert activation.local.c0 == pytest.approx(expected["c0"], abs=1e-9)


def test_the_function_counts_not_its_gradient():
  """A straight-through gradient is none of the forward map's business."""
  through = jax.custom_vjp(jnp.tanh)
  through.defvjp(lambda x: (jnp.tanh(x), None), lambda _, g: (g,))
  activation = read(lambda w, x: through(x @ w[0]) @ w[1], 2).activation
  expected = references.local_conditions(jnp.tanh)
  assert activation.local.c_slope == pytest.approx(expected["c_slope"], rel=1e-9)


def test_one_nonlinearity_used_twice_is_one_layer():
  def apply(w, x):
    y = jnp.tanh(x @ w[0])
    return (0.6 * y @ w[1] + y @ w[2] * 0.8) / math.sqrt(second_moment(math.tanh))

  assert read(apply, 3).num_nonlinear == 1


def test_equal_nonlinearities_are_equal_layers():
  def apply(w, x):
    size = math.sqrt(second_moment(math.tanh))
    *hidden, last = w
    for weight in hidden:
      x = jnp.tanh(x @ weight) / size
    return x @ last

  topology = read(apply, 13)
  assert repr(topology).startswith("12 x nonlinear tanh")
  assert len(set(layers_of(topology))) == 1


@pytest.mark.parametrize("function", [jnp.log1p, jnp.sign, lambda x: (x > 0) * 1.0, jnp.round])
def test_functions_without_a_map_are_findings(function):
  with pytest.raises(tatnet.TopologyError) as caught:
    read(lambda w, x: function(x @ w[0]) @ w[1], 2)
  (finding,) = caught.value.findings
  assert "nonlinearity" in finding.kind
  assert "test_nonlinearities.py" in finding.place


def test_linear_functions_are_no_layers():
  """What only looks like a nonlinearity: a wide clip, two ReLUs that add up to a line."""

  def apply(w, x, activation):
    x = jnp.clip(x @ w[0], -1e6, 1e6)
    x = jax.nn.relu(x) - jax.nn.relu(-x)
    return activation(jnp.where(jnp.isfinite(x), x, 0.0))

  assert read(apply, 1) == tatnet.chain(1)
