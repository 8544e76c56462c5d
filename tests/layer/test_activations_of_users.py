"""A user's function, with its kinks declared, is served like a named activation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import local_conditions

import tatnet

# Own spellings of named activations: name -> (function, kinks).
TWINS = {
  "softplus": (lambda x: jnp.logaddexp(x, 0.0), ()),
  "relu": (lambda x: jnp.maximum(x, 0.0), (0.0,)),
  "elu": (lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0.0))), (0.0,)),
  "softsign": (lambda x: x / (1 + jnp.abs(x)), (0.0,)),
  "selu": (lambda x: jax.nn.selu(x), (0.0,)),
}


@functools.cache
def twin(name):
  function, kinks = TWINS[name]
  return tatnet.Activation(function, kinks=kinks, name=f"my_{name}")


def kinks_of(act):
  return [(kink - act.input_shift) / act.input_scale for kink in act.activation.kinks]


@pytest.mark.parametrize("name", [name for name in TWINS if name != "relu"])
def test_dks_finds_the_same(name):
  named = tatnet.transform_activation(name, tatnet.chain(40), tatnet.DKS())
  own = tatnet.transform_activation(twin(name), tatnet.chain(40), tatnet.DKS())
  assert own.name == f"my_{name}"
  for field in ("input_scale", "input_shift", "output_shift", "output_scale"):
    assert getattr(own, field) == pytest.approx(getattr(named, field), rel=1e-7)


@pytest.mark.parametrize("name", ["softplus", "elu", "softsign"])
def test_tat_finds_the_same(name):
  named = tatnet.transform_activation(name, tatnet.chain(40), tatnet.TAT())
  own = tatnet.transform_activation(twin(name), tatnet.chain(40), tatnet.TAT())
  found, expected = dataclasses.asdict(own.local), dataclasses.asdict(named.local)
  assert found == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", TWINS)
def test_local_maps_are_the_same(name):
  found, expected = tatnet.local_maps(twin(name)), tatnet.local_maps(name)
  assert dataclasses.asdict(found.values) == pytest.approx(
    dataclasses.asdict(expected.values), rel=1e-9, abs=1e-12
  )
  for method in ("C", "c_slope", "c_curvature"):
    values = [getattr(maps, method)(np.array([-0.5, 0.3, 0.8])) for maps in (found, expected)]
    np.testing.assert_allclose(*values, rtol=1e-9)


@pytest.mark.parametrize("kink", [-1.37, 0.0, 0.2])
def test_a_kink_anywhere(kink):
  """Two bent pieces that meet at a kink."""

  def pieces(x):
    y = x - kink
    return jnp.where(y > 0, jnp.log1p(jnp.maximum(y, 0)), jnp.expm1(jnp.minimum(y, 0)) / 3)

  activation = tatnet.Activation(pieces, kinks=(kink,))
  act = tatnet.transform_activation(activation, tatnet.chain(30), tatnet.DKS())
  conditions = local_conditions(act, kinks_of(act))
  assert conditions["q"] == pytest.approx(1, abs=1e-10)
  assert conditions["c0"] == pytest.approx(0, abs=1e-10)
  assert conditions["q_slope"] == pytest.approx(1, abs=1e-10)
  assert conditions["c_slope"] == pytest.approx(1.5 ** (1 / 30), abs=1e-10)


@pytest.mark.parametrize("method", [tatnet.DKS(), tatnet.TAT()], ids=["DKS", "TAT"])
@pytest.mark.parametrize("function", [jax.nn.squareplus, lambda x: jnp.exp(-(x**2))])
def test_smooth_functions_without_a_name_in_the_library(function, method):
  act = tatnet.transform_activation(function, tatnet.chain(30), method)
  conditions = local_conditions(act)
  assert conditions["q"] == pytest.approx(1, abs=1e-10)
  assert conditions["q_slope"] == pytest.approx(1, abs=1e-10)
  if isinstance(method, tatnet.DKS):
    assert conditions["c0"] == pytest.approx(0, abs=1e-10)
    assert conditions["c_slope"] == pytest.approx(1.5 ** (1 / 30), abs=1e-10)
  else:
    assert conditions["c_slope"] == pytest.approx(1, abs=1e-10)
    assert conditions["c_curvature"] == pytest.approx(0.01, abs=1e-10)
