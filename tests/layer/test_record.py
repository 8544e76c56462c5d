"""TransformedActivation as a value: frozen, hashed, printed, stored, and its local map values."""

import dataclasses
import functools
import json
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import local_conditions

import tatnet
from tatnet import TransformedActivation

NAMES = tatnet.activation_names()
KINKS = dict.fromkeys(("relu", "leaky_relu", "selu", "elu", "softsign"), (0.0,))
KINKS |= {"hard_tanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}
CLIPS = ("hard_tanh", "relu6")
every_act = pytest.mark.parametrize("name", [*sorted({*NAMES} - {"square"}), "TReLU", "EOC"])
NUMBERS = st.floats(0.01, 100) | st.floats(-100, -0.01)


@functools.cache
def solved(name, depth=49):
  if name == "TReLU":
    return tatnet.transform_activation("leaky_relu", tatnet.chain(49), tatnet.TAT(0.9))
  if name == "EOC":
    return tatnet.transform_activation("tanh", tatnet.chain(49), tatnet.EOC(0.2))
  zeta = 1.8**depth if name in CLIPS else 1.3
  return tatnet.transform_activation(name, tatnet.chain(depth), tatnet.DKS(zeta))


def bump(x):
  return x + jnp.exp(-(x**2)) / 2


@every_act
def test_it_is_a_frozen_value(name):
  act = solved(name)
  twin = dataclasses.replace(act)
  assert twin == act
  assert hash(twin) == hash(act)
  assert {act: "found"}[twin] == "found"
  other = dataclasses.replace(act, output_scale=7.0)
  assert len({act, twin, other}) == 2
  with pytest.raises(dataclasses.FrozenInstanceError):
    act.output_scale = 2.0


@every_act
def test_repr_names_every_number_and_can_be_evaluated(name):
  text = repr(solved(name))
  assert "None" not in text
  assert eval(text, {"TransformedActivation": TransformedActivation}) == solved(name)


@every_act
def test_json_round_trip(name):
  data = solved(name).to_dict()
  assert None not in data.values()
  assert TransformedActivation.from_dict(json.loads(json.dumps(data))) == solved(name)


@every_act
def test_pickle_round_trip(name):
  act, x = solved(name), jnp.linspace(-3, 3, 7)
  # What was computed on the way must not stand in the way.
  expected, local = act(x), act.local
  copy = pickle.loads(pickle.dumps(act))
  assert copy == act
  assert copy.local == local
  np.testing.assert_array_equal(copy(x), expected)


@given(name=st.sampled_from(NAMES), scale=NUMBERS, shift=NUMBERS, offset=NUMBERS, gain=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_any_record_survives_json(name, scale, shift, offset, gain):
  act = TransformedActivation(name, None, scale, shift, offset, gain)
  assert TransformedActivation.from_dict(json.loads(json.dumps(act.to_dict()))) == act
  assert eval(repr(act), {"TransformedActivation": TransformedActivation}) == act


def test_an_unnamed_function_needs_its_base_back():
  act = tatnet.transform_activation(bump, tatnet.chain(20), tatnet.DKS(1.5))
  assert act.name == "bump"
  data = json.loads(json.dumps(act.to_dict()))
  copy = TransformedActivation.from_dict(data, base=bump)
  assert copy == act
  assert hash(copy) == hash(act)
  np.testing.assert_array_equal(copy(jnp.ones(3)), act(jnp.ones(3)))
  with pytest.raises(ValueError, match=r"'bump'.*base"):
    TransformedActivation.from_dict(data)


def test_a_function_of_the_users_does_not_pass_for_the_librarys():
  # Stored under the library's name it would come back as another function.
  jet = tatnet.Activation(jnp.tanh).jet
  own = tatnet.Activation(jnp.tanh, name="gelu", jet=jet)
  act = tatnet.transform_activation(own, tatnet.chain(20), tatnet.DKS(1.5))
  with pytest.raises(ValueError, match=r"'custom_gelu'.*base"):
    TransformedActivation.from_dict(act.to_dict())
  copy = TransformedActivation.from_dict(act.to_dict(), base=own)
  assert copy == act
  np.testing.assert_array_equal(copy(jnp.ones(3)), act(jnp.ones(3)))


@pytest.mark.parametrize("name", ["tanh", "TReLU"])
def test_a_base_that_the_name_stands_for_is_not_needed(name):
  act = solved(name)
  assert TransformedActivation.from_dict(act.to_dict(), base=act.name) == act


def test_from_dict_refuses_what_it_does_not_know():
  with pytest.raises(ValueError, match=r"\['name', 'slope'\]; expected 'name' and any of"):
    TransformedActivation.from_dict({"name": "tanh", "slope": 1.0})
  with pytest.raises(ValueError, match="expected 'name'"):
    TransformedActivation.from_dict({"input_scale": 1.0})


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "tanhh"}, "Did you mean 'tanh'"),
    ({"name": "tanh", "input_scale": math.nan}, "input_scale=nan: expected a finite number"),
    ({"name": "tanh", "output_scale": math.inf}, "output_scale=inf: expected a finite number"),
    ({"name": "tanh", "input_scale": 0.0}, "input_scale=0 makes the activation constant"),
    ({"name": "tanh", "negative_slope": 0.1}, "only 'leaky_relu' has one"),
  ],
)
def test_impossible_records(fields, message):
  with pytest.raises(ValueError, match=message):
    TransformedActivation(**fields)


def test_an_equal_record_does_not_compile_again():
  traces = []

  def traced(act, x):
    traces.append(act)
    return act(x)

  compiled = jax.jit(traced, static_argnums=0)
  act = solved("tanh")
  for record in (act, dataclasses.replace(act), TransformedActivation.from_dict(act.to_dict())):
    compiled(record, jnp.ones(3))
  assert len(traces) == 1
  compiled(solved("gelu"), jnp.ones(3))
  assert len(traces) == 2


def kinks_of(act):
  """In the record's own argument."""
  shift, scale = act.input_shift or 0.0, act.input_scale or 1.0
  return [(kink - shift) / scale for kink in KINKS.get(act.name, ())]


@pytest.mark.parametrize(
  ("name", "depth"),
  [(n, 49) for n in sorted({*NAMES} - {"square"} | {"TReLU"})]
  + [(n, d) for n in sorted(KINKS) for d in (5, 10)],
)
def test_local_values_follow_their_definitions(name, depth):
  act = solved(name, depth)
  found = dataclasses.asdict(act.local)
  assert found == pytest.approx(local_conditions(act, kinks_of(act)), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("depth", [5, 10, 20, 49])
@pytest.mark.parametrize("name", sorted(KINKS))
def test_curvature_is_the_derivative_of_the_slope(name, depth):
  maps = tatnet.local_maps(solved(name, depth))
  c, step = np.array([-0.4, 0.5]), 1e-4
  difference = (maps.c_slope(c + step) - maps.c_slope(c - step)) / (2 * step)
  np.testing.assert_allclose(maps.c_curvature(c), difference, rtol=1e-5)
