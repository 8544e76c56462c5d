"""Functions that are tables: `jnp.interp` with places and values that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

PLACES, VALUES = np.array([-2.0, -0.5, 0.5, 3.0]), np.array([0.3, -0.4, 1.0, 1.5])
SHAPE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
EXAMPLES = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def network(function):
  def apply(params, x, activation):
    return activation(function(x @ params[0]) @ params[1]) @ params[2]

  return apply


@pytest.mark.parametrize("over_examples", [False, True])
def test_a_table_has_the_map_of_the_line_through_its_points(over_examples):
  function = functools.partial(jnp.interp, xp=jnp.asarray(PLACES), fp=jnp.asarray(VALUES))
  # Its q is not 1, so the activation behind it is scaled back.
  z = np.linspace(-10, 10, 400001)
  weight = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
  y = np.interp(z, PLACES, VALUES)
  q, mean = weight @ y**2, weight @ y
  inner = jax.vmap(function) if over_examples else function
  topology = tatnet.trace_apply(network(lambda x: inner(x) / np.sqrt(q)), [SHAPE] * 3, EXAMPLES)
  assert topology.num_nonlinear == 2
  first = topology.parts[0].activation
  np.testing.assert_allclose(first.maps.C(0.0), mean**2 / q, rtol=1e-6)


def test_values_that_are_parameters_are_those_given():
  def apply(params, x):
    w, values = params
    return jnp.interp(x @ w, jnp.asarray(PLACES), values) @ w.T[:, :4]

  weights = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
  with pytest.raises(tatnet.TopologyError, match="tied weights"):
    tatnet.trace_apply(apply, (weights, jnp.asarray(VALUES, jnp.float32)), EXAMPLES)
  with pytest.raises(tatnet.TopologyError, match="interpolation in an unknown table"):
    tatnet.trace_apply(apply, (SHAPE, jax.ShapeDtypeStruct((4,), jnp.float32)), EXAMPLES)


def test_a_function_of_ones_own_of_that_name_is_read():
  @jax.jit
  def _interp(x, xp, fp):
    return jnp.tanh(x) + 0 * (xp.sum() + fp.sum())

  def apply(params, x, activation):
    return activation(_interp(x @ params[0], jnp.asarray(PLACES), jnp.asarray(VALUES)) @ params[1])

  with pytest.raises(tatnet.TopologyError) as raised:
    tatnet.trace_apply(apply, [SHAPE] * 2, EXAMPLES)
  (finding,) = raised.value.findings
  assert finding.kind == "q is not 1 at an activation"


@pytest.mark.parametrize(
  "size",
  [lambda x: jnp.max(x, -1, keepdims=True), lambda x: jnp.mean(jnp.abs(x), -1, keepdims=True)],
)
def test_a_size_that_is_not_known_is_named(size):
  def apply(params, x, activation):
    y = activation(x @ params[0])
    return activation(y / size(y) @ params[1])

  with pytest.raises(tatnet.TopologyError, match="normalisation of unknown size"):
    tatnet.trace_apply(apply, [SHAPE] * 2, EXAMPLES)


def test_the_mean_size_of_what_weights_made_is_known():
  def apply(params, x, activation):
    y = x @ params[0]
    y = y / jnp.mean(jnp.abs(y), -1, keepdims=True) * np.sqrt(2 / np.pi)
    return activation(y) @ params[1]

  assert tatnet.trace_apply(apply, [SHAPE] * 2, EXAMPLES) == tatnet.chain(1)
