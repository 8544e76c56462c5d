"""Records of activations: what stands for a field and is none is refused, in words."""

import fractions
import math

import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet import TransformedActivation

NUMBERS = ("negative_slope", "input_scale", "input_shift", "output_shift", "output_scale")
SIZES = ("weight_scale", "bias_scale", "operating_q")
NO_NUMBERS = ["1", "", b"1", True, np.bool_(False), 1j, [1.0], (1.0,), {}, np.ones(1), np.ones(3),
              jnp.ones(2), object(), math.sqrt]  # fmt: skip
HUGE = [math.nan, math.inf, -math.inf, 10**400, -(10**400), 10**5000, 1e308, -1e308,
        np.float32(np.inf), fractions.Fraction(10**400, 3)]  # fmt: skip


def refused(error, call, start):
  with pytest.raises(error) as caught:
    call()
  assert type(caught.value) is error
  message = str(caught.value)
  assert message.startswith(start)
  assert "expected" in message
  assert len(message) < 800
  return message


def makers(field, value):
  fields = {"name": "leaky_relu", field: value}
  return (lambda: TransformedActivation(**fields), lambda: TransformedActivation.from_dict(fields))


@pytest.mark.parametrize("field", [*NUMBERS, *SIZES])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: type(v).__name__)
def test_a_field_that_is_no_number(field, value):
  for make in makers(field, value):
    refused(TypeError, make, f"{field}=")


@pytest.mark.parametrize("field", [*NUMBERS, *SIZES])
def test_a_field_with_which_no_layer_computes(field):
  for value in HUGE:
    for make in makers(field, value):
      refused(ValueError, make, f"{field}=")


@pytest.mark.parametrize("value", [-1, -1e-300])
@pytest.mark.parametrize("field", SIZES)
def test_a_negative_size(field, value):
  for make in makers(field, value):
    refused(ValueError, make, f"{field}=")


@pytest.mark.parametrize("field", ["input_scale", "weight_scale", "operating_q"])
def test_a_scale_that_float32_rounds_to_zero(field):
  for make in makers(field, 1e-320):
    refused(ValueError, make, f"{field}=")


@pytest.mark.parametrize("value", [None, 3, True, b"tanh", ["tanh"], {}, 1j, np.ones(2)], ids=repr)
def test_a_name_of_another_kind(value):
  for make in (
    lambda: TransformedActivation(value),
    lambda: TransformedActivation.from_dict({"name": value}),
    lambda: TransformedActivation(value, base=tatnet.Activation(jnp.cosh)),
    lambda: tatnet.Activation(jnp.cosh, name=value),
  ):
    refused(TypeError, make, "name=")


@pytest.mark.parametrize("value", ["", "x" * 10**6])
def test_an_empty_or_a_huge_name(value):
  for make in (
    lambda: TransformedActivation(value),
    lambda: TransformedActivation.from_dict({"name": value}),
    lambda: TransformedActivation.from_dict({"name": value}, base=jnp.cosh),
  ):
    refused(ValueError, make, "name=")


@pytest.mark.parametrize(
  "value", [None, 3, "tanh", [("name", "tanh")], {"name"}, b"{}", np.ones(2)]
)
def test_what_is_no_dictionary(value):
  refused(TypeError, lambda: TransformedActivation.from_dict(value), "from_dict got ")


@pytest.mark.parametrize("key", [1, None, ("name",), b"name", 1.5, "base", "x" * 10**6])
def test_keys_that_are_no_fields(key):
  data = {"name": "tanh", key: 1.0}
  refused(ValueError, lambda: TransformedActivation.from_dict(data), "from_dict got the fields ")


@pytest.mark.parametrize("base", [3, True, [jnp.cosh], {}])
def test_a_base_that_is_no_function(base):
  refused(
    TypeError, lambda: TransformedActivation.from_dict({"name": "f"}, base=base), "activation"
  )
  refused(TypeError, lambda: TransformedActivation("f", base=base), "base=")


@pytest.mark.parametrize(
  ("kinks", "error"),
  [
    (("0",), TypeError),
    ("1", TypeError),
    ((True,), TypeError),
    ((1j,), TypeError),
    (3, TypeError),
    ((None,), TypeError),
    ((10**400,), ValueError),
    ((math.nan,), ValueError),
  ],
)
def test_kinks_of_any_kind(kinks, error):
  refused(error, lambda: tatnet.Activation(jnp.abs, kinks=kinks), "Activation got kinks=")


@pytest.mark.parametrize("kind", [int, float, np.float16, np.float32, np.int64, fractions.Fraction])
def test_numbers_in_every_spelling_are_stored_as_floats(kind):
  act = TransformedActivation("tanh", input_scale=kind(2), bias_scale=kind(0))
  assert act == TransformedActivation("tanh", input_scale=2.0, bias_scale=0.0)
  assert type(act.input_scale) is float
