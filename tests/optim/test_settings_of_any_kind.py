"""Whatever stands where an optimiser's number should be is refused, by name and in words."""

import decimal
import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

NO_NUMBERS = [
  "0.1", True, np.bool_(True), 1j, [0.1], (0.1,), {"a": 1}, np.array([0.1]), np.zeros([2, 2]),
  np.array(["a"])[0], np.array(True), jnp.ones(2), jnp.array(1j), object(), b"1",
  fractions.Fraction(1, 2), decimal.Decimal("0.5"), fractions.Fraction(10**5000),
]  # fmt: skip
NOT_IN_RANGE = [math.nan, math.inf, -math.inf, -1, 10**400, -(10**400), 10**5000, 1e308, 1e-320,
                np.float32(np.inf), np.array(np.nan), jnp.array(jnp.inf)]  # fmt: skip
NO_SCHEDULE = ("decay", "momentum", "factors_every", "inverse_every", "burn_in", "weight_decay")
KFAC = ("damping", "norm_constraint", *NO_SCHEDULE)
ADAPTIVE = ("damping", "adapt_every", *NO_SCHEDULE)


def kfac(learning_rate=0.1, **options):
  return tatnet.kfac(learning_rate, **options)


def scale_by_kfac(learning_rate=0.1, **options):
  return tatnet.scale_by_kfac(learning_rate=learning_rate, **options)


CASES = [
  *((kfac, name) for name in ("learning_rate", *KFAC)),
  *((tatnet.adaptive_kfac, name) for name in ("learning_rate", *ADAPTIVE)),
  *((scale_by_kfac, name) for name in ("learning_rate", "damping", "decay", "norm_constraint")),
]
every_setting = pytest.mark.parametrize(("make", "name"), CASES)


def refused(error, make, name, value):
  with pytest.raises(error) as caught:
    make(**{name: value})
  assert type(caught.value) is error
  assert str(caught.value).startswith(f"{name}=")
  assert "; expected a" in str(caught.value)
  assert len(str(caught.value)) < 300


@every_setting
def test_what_is_no_number(make, name):
  for value in NO_NUMBERS:
    refused(TypeError, make, name, value)
  if name in NO_SCHEDULE:
    refused(TypeError, make, name, lambda count: 0.5)


@every_setting
def test_what_no_optimiser_computes_with(make, name):
  for value in NOT_IN_RANGE:
    refused(ValueError, make, name, value)


@pytest.mark.parametrize("name", ["factors_every", "inverse_every", "burn_in"])
def test_counts_are_whole_and_within_int32(name):
  for value in (0.5, 2.0**31, np.float32(1.5), jnp.array(1.5)):
    refused(ValueError, kfac, name, value)


@pytest.mark.parametrize(
  ("make", "name"),
  [(make, name) for make, name in CASES if name in NO_SCHEDULE and name != "momentum"]
  + [(kfac, "learning_rate"), (kfac, "damping")],
)
def test_none_where_a_number_is_needed(make, name):
  refused(TypeError, make, name, None)


@every_setting
def test_numbers_in_every_spelling_stay_allowed(make, name):
  whole = name.endswith("_every") or name == "burn_in"
  for kind in (float, np.float16, np.float32, np.float64, np.array, jnp.array):
    make(**{name: kind(2 if whole else 0.5)})
  if name not in (*NO_SCHEDULE, "adapt_every"):
    make(**{name: lambda count: 0.1})


def test_numbers_of_a_traced_program_stay_allowed():
  params = {"dense": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}}

  def init(damping, rate):
    return tatnet.kfac(rate, damping=damping).init(params)

  jax.eval_shape(init, 0.1, 0.2)
  jax.eval_shape(jax.vmap(init), jnp.ones(4), jnp.ones(4))
  with pytest.raises(TypeError, match=r"damping=.*; expected a number above 0"):
    jax.eval_shape(init, jnp.ones(4), 0.2)


@pytest.mark.parametrize("value", [["error"], None, 1, "x" * 10_000], ids=type)
@pytest.mark.parametrize("make", [kfac, tatnet.adaptive_kfac])
def test_another_kind_of_treatment(make, value):
  with pytest.raises(ValueError, match=r"^uncovered=.*; expected 'error' or 'identity'"):
    make(uncovered=value)


@pytest.mark.parametrize("make", [kfac, tatnet.adaptive_kfac])
def test_devices_that_are_no_mesh(make):
  with pytest.raises(TypeError, match=r"^mesh=8; expected what jax\.make_mesh makes, or None"):
    make(mesh=8)
