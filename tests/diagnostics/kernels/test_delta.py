"""Kernels that reach beyond their middle: found by their values, where they read zeros."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import tatnet
from tatnet.diagnostics.kernels.delta import spread_kernels

IMAGES = jnp.ones((2, 6, 6, 3))


def found(init, padding, stride=1):
  def forward(x, activation):
    x = activation(hk.Conv2D(8, 3, padding=padding, stride=stride, w_init=init, name="first")(x))
    return hk.Conv2D(8, 1, name="second")(x)

  network = hk.transform_with_state(lambda x: forward(x, jax.nn.relu))
  return spread_kernels(forward, *network.init(jax.random.key(0), IMAGES), IMAGES)


@pytest.mark.parametrize(
  ("init", "padding", "stride", "expected"),
  [
    (None, "SAME", 1, ("kernels that are not Delta at first",)),
    (tatnet.ScaledUniformOrthogonal(), "SAME", 1, ()),
    (None, "VALID", 3, ()),  # patches, which no zeros touch
  ],
)
def test_kernels_beyond_their_middle(init, padding, stride, expected):
  assert found(init, padding, stride) == expected


def test_the_report_says_so():
  def forward(x, activation):
    return hk.Linear(3)(activation(hk.Conv2D(16, 3)(x)).mean((1, 2)))

  x = jax.random.normal(jax.random.key(0), (3, 6, 6, 4))
  report = tatnet.diagnostics.kernel_report(forward, x, activation="relu", seeds=1)
  assert "The trace warned of kernels that are not Delta at conv2_d." in str(report)
