"""TAT, DKS and EOC: a target that is no number, or beyond all networks, is refused in words."""

import fractions
import math

import jax.numpy as jnp
import numpy as np
import pytest

from tatnet import DKS, EOC, TAT

TARGETS = [(TAT, "eta"), (TAT, "tau"), (DKS, "zeta"), (DKS, "q_slope"), (EOC, "sigma_b")]
every_target = pytest.mark.parametrize(("method", "field"), TARGETS)


def refused(error, method, field, value):
  with pytest.raises(error) as caught:
    method(**{field: value})
  assert type(caught.value) is error
  assert str(caught.value).startswith(f"{method.__name__} got {field}=")
  assert "; expected a number" in str(caught.value)
  assert len(str(caught.value)) < 300


@every_target
def test_what_is_no_number(method, field):
  values = ["0.5", b"1", None, True, False, np.bool_(False), 1j, [0.5], (), {}, object()]
  arrays = [np.zeros(1), np.ones(2), np.array(0.0), jnp.zeros(1), jnp.ones(2)]
  for value in (*values, *arrays, math.sqrt):
    refused(TypeError, method, field, value)


@every_target
def test_what_no_network_reaches(method, field):
  huge = [10**400, 10**5000, 1e308, math.inf, fractions.Fraction(10**400, 3), np.float32(np.inf)]
  for value in (*huge, *(-value for value in huge), math.nan, -1e-320):
    refused(ValueError, method, field, value)


@pytest.mark.parametrize(("method", "field"), TARGETS[:-1])
def test_what_rounds_to_the_limit(method, field):
  lowest = 1 if field == "zeta" else 0
  refused(ValueError, method, field, lowest + fractions.Fraction(1, 10**400))


@every_target
@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64, fractions.Fraction])
def test_numbers_in_every_spelling_are_stored_as_floats(method, field, kind):
  number = 1.5 if field == "zeta" else 0.5
  made = method(**{field: kind(number)})
  assert made == method(**{field: number})
  assert type(getattr(made, field)) is float
