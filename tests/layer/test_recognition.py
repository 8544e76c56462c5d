"""Lines, rectifiers and named activations are known by their values, in any spelling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.layer.activations import ACTIVATIONS
from tatnet.layer.recognition import as_line, as_named, as_rectifier

RECTIFIERS = {
  # name: (function, right, left)
  "relu": (jax.nn.relu, 1, 0),
  "maximum": (lambda x: jnp.maximum(x, 0), 1, 0),
  "half of x + |x|": (lambda x: (x + jnp.abs(x)) / 2, 1, 0),
  "a mask": (lambda x: x * (x > 0), 1, 0),
  "leaky": (jax.nn.leaky_relu, 1, 0.01),
  "leaky by maximum": (lambda x: jnp.maximum(0.3 * x, x), 1, 0.3),
  "leaky by sums": (lambda x: 0.65 * x + 0.35 * jnp.abs(x), 1, 0.3),
  "absolute": (jnp.abs, 1, -1),
  "root of square": (lambda x: jnp.sqrt(x * x), 1, -1),
  "steep": (lambda x: jnp.where(x < 0, 7 * x, 2 * x), 2, 7),
  "mirrored": (lambda x: jax.nn.relu(-3 * x), 0, -3),
  "falling": (lambda x: -jax.nn.relu(x), -1, 0),
  "in 32 bits": (
    lambda x: jax.nn.leaky_relu(x.astype(jnp.float32), 0.3).astype(x.dtype),
    1,
    np.float32(0.3),
  ),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifiers(name):
  function, *slopes = RECTIFIERS[name]
  found = as_rectifier(function)
  assert found == pytest.approx(tuple(slopes), rel=1e-6 if name == "in 32 bits" else 1e-12)
  assert as_line(function) is None


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jax.nn.softplus(1e4 * x) / 1e4,
    lambda x: jnp.sqrt(x * x + 1e-10),
    lambda x: jax.nn.relu(x - 1e-4),
    lambda x: jax.nn.relu(x) + 1e-6,
    lambda x: jnp.clip(x, 0, 11),
    lambda x: jax.nn.relu(x) + 1e-6 * jnp.sin(8 * jnp.pi * x),
    lambda x: 2 * x,
    lambda x: x / x,
    jnp.sqrt,
  ],
)
def test_what_is_no_rectifier(function):
  assert as_rectifier(function) is None


@pytest.mark.parametrize(
  ("function", "slope", "offset"),
  [
    (lambda x: 3 * x, 3, 0),
    (lambda x: x / 4 - 2, 0.25, -2),
    (jnp.zeros_like, 0, 0),
    (lambda x: jnp.full_like(x, 5.0), 0, 5),
    (lambda x: jnp.log(jnp.exp(x)), 1, 0),
    (lambda x: jnp.cos(x) ** 2 + jnp.sin(x) ** 2, 0, 1),
    (lambda x: 1e6 * (x + 1), 1e6, 1e6),
    (lambda x: x.astype(jnp.float32).astype(x.dtype), 1, 0),
  ],
)
def test_lines(function, slope, offset):
  assert as_line(function) == pytest.approx((slope, offset), rel=1e-9, abs=1e-9)
  assert as_rectifier(function) is None


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jnp.sin(8 * jnp.pi * x),  # 0 at every multiple of 1/8
    lambda x: x + 1e-4 * jnp.tanh(x),
    lambda x: 1000 * x + 1e-4 * jnp.abs(x - 0.3),
    lambda x: x + jax.nn.relu(x - 11),
    jnp.tanh,
  ],
)
def test_what_is_no_line(function):
  assert as_line(function) is None


def test_the_radius_decides_what_is_seen():
  def clip(x):
    return jnp.clip(x, -8, 20)

  assert as_line(clip, 7.0) == (1, 0)
  assert as_line(clip, 12.0) is None
  bounded = functools.partial(jnp.clip, min=0, max=20)
  assert as_rectifier(bounded, 12.0) == (1, 0)
  assert as_rectifier(bounded, 24.0) is None
  assert as_named(lambda x: jnp.minimum(jax.nn.gelu(x), 20.0), 12.0).name == "gelu"
  # So far from a bend that what is left of it is small beside a small signal.
  assert as_line(jnp.tanh, 1e-4) is None
  assert as_line(jnp.tanh, 1e-6) == pytest.approx((1, 0))
  assert as_line(lambda x: jax.nn.relu(x - 50)) == (0, 0)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"silu"}))
def test_names(name):
  assert as_named(ACTIVATIONS[name].function).name == name


@pytest.mark.parametrize(
  ("function", "name"),
  [
    (lambda x: 1 / (1 + jnp.exp(-x)), "sigmoid"),
    (lambda x: x * (1 + jax.lax.erf(x / jnp.sqrt(2.0))) / 2, "gelu_exact"),
    (lambda x: jnp.log(1 + jnp.exp(x)), "softplus"),
    (lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype), "tanh"),
    (lambda x: x * jax.nn.sigmoid(1.702 * x), None),
    (lambda x: jnp.tanh(x) + 1e-6, None),
    (jnp.log, None),
  ],
)
def test_names_of_other_spellings(function, name):
  assert getattr(as_named(function), "name", None) == name
