"""What all signals have in common: normalisations that take it away, and what else changes q or c.

Traced maps are held against wide networks that run.
"""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

F32 = jnp.float32
WIDTH, SEEDS = 512, 4
RELU = tatnet.TransformedActivation("relu", output_scale=math.sqrt(2))
LAYER = tatnet.nonlinear()
VECTORS = jax.ShapeDtypeStruct((2, WIDTH), F32)


def linear(width=WIDTH):
  return hk.Linear(width, w_init=tatnet.ScaledUniformOrthogonal())


def measured(forward, activation, cosine=0.3):
  """Mean q and cosine of the outputs for two inputs of that cosine."""
  x = tatnet.diagnostics.input_pairs([cosine], (WIDTH,)).inputs
  network = hk.transform(lambda x: forward(x, activation))
  run = jax.jit(lambda key: network.apply(network.init(key, x), key, x))
  outputs = np.stack([run(jax.random.key(seed)) for seed in range(SEEDS)]).astype(np.float64)
  q = np.mean(outputs**2, -1)
  return q.mean(), np.mean(np.mean(outputs[:, 0] * outputs[:, 1], -1) / np.sqrt(q[:, 0] * q[:, 1]))


def layer_norm(x):
  return hk.LayerNorm(-1, True, True)(x)


def by_hand(x):
  """As Flax computes it: the mean square less the squared mean."""
  mean, square = x.mean(-1, keepdims=True), (x * x).mean(-1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(square - mean * mean + 1e-6)


def group_norm(x):
  return hk.GroupNorm(4)(x)


def normalised_behind(norm):
  def forward(x, activation):
    for _ in range(4):
      x = norm(activation(linear()(x)))
    return x

  return forward


@pytest.mark.parametrize("norm", [layer_norm, by_hand, group_norm], ids=lambda f: f.__name__)
def test_normalised_behind_an_activation(norm):
  forward = normalised_behind(norm)
  topology = tatnet.trace(forward, VECTORS)
  assert topology == tatnet.sequence(*[LAYER, tatnet.centring()] * 4)
  q, c = measured(forward, RELU)
  assert q == pytest.approx(1, abs=0.02)
  assert c == pytest.approx(tatnet.cmap(topology, RELU, 0.3), abs=0.03)
  assert abs(c - tatnet.cmap(tatnet.chain(4), RELU, 0.3)) > 0.3


@pytest.mark.parametrize("norm", [lambda x: hk.RMSNorm(-1)(x), layer_norm], ids=["rms", "layer"])
def test_normalised_behind_weights_or_by_the_root_mean_square(norm):
  def forward(x, activation):
    for _ in range(3):
      x = activation(norm(linear()(x)))
    return linear()(x)

  assert tatnet.trace(forward, VECTORS) == tatnet.chain(3)


def test_a_sum_with_an_activated_term():
  def forward(x, activation):
    x = activation(linear()(x))
    return layer_norm(0.6 * x + 0.8 * linear()(activation(linear()(x))))

  topology = tatnet.trace(forward, VECTORS)
  q, c = measured(forward, RELU)
  assert q == pytest.approx(1, abs=0.02)
  assert c == pytest.approx(tatnet.cmap(topology, RELU, 0.3), abs=0.03)


def test_post_norm_sums_need_no_weights():
  def forward(x, activation):
    x = linear()(x)
    for _ in range(2):
      x = layer_norm(x + 2.0 * linear()(activation(linear()(x))))
    return x

  topology = tatnet.trace(forward, VECTORS)
  branch = tatnet.weighted_sum((1 / math.sqrt(5), tatnet.identity()), (2 / math.sqrt(5), LAYER))
  assert topology == tatnet.sequence(branch, branch)
  q, c = measured(forward, RELU)
  assert q == pytest.approx(1, abs=0.02)
  assert c == pytest.approx(tatnet.cmap(topology, RELU, 0.3), abs=0.03)


def test_a_mean_subtracted_without_division():
  def forward(x, activation):
    x = activation(linear()(x))
    return linear()(activation(linear()(x - x.mean(-1, keepdims=True))))

  with pytest.raises(tatnet.TopologyError) as caught:
    tatnet.trace(forward, VECTORS)
  assert [finding.kind for finding in caught.value.findings] == ["mean subtracted"]


def dropped(rate):
  def forward(x, activation):
    for _ in range(3):
      x = hk.dropout(hk.next_rng_key(), rate, activation(linear()(x)))
    return x

  return forward


def test_dropout_between_layers():
  forward = dropped(0.25)
  with pytest.warns(tatnet.TopologyWarning, match=r"dropout between.*\n.*q = 1\.3333"):
    topology = tatnet.trace(forward, VECTORS)
  q, c = measured(forward, RELU)
  assert q == pytest.approx((4 / 3) ** 3, rel=0.1)
  # Behind the last layer it is no part of the map.
  assert c == pytest.approx(0.75 * tatnet.cmap(topology, RELU, 0.3), abs=0.03)


def test_dropout_in_front_of_the_head_is_no_part_of_the_map():
  def forward(x, activation):
    x = activation(linear()(activation(linear()(x))))
    return linear(10)(hk.dropout(hk.next_rng_key(), 0.5, x))

  assert tatnet.trace(forward, VECTORS) == tatnet.chain(2)


def test_averages_between_layers_are_warned_of_with_their_size():
  def forward(x, activation):
    x = activation(hk.Conv2D(8, 3)(x))
    x = hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return hk.Linear(3)(activation(hk.Conv2D(8, 3)(x)).mean((1, 2)))

  images = jax.ShapeDtypeStruct((2, 8, 8, 3), F32)
  # Four locations without anything in common behind C(0) = 0.25.
  with pytest.warns(
    tatnet.TopologyWarning, match=r"over 4 locations(.|\n)*q = 0\.44(.|\n)*c = 0\.57"
  ):
    assert tatnet.trace(forward, images) == tatnet.chain(2)


@pytest.mark.parametrize("reads", ["last", "raw"])
def test_averages_elsewhere_change_nothing(reads):
  def forward(x, activation):
    x = x if reads == "last" else hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return hk.Linear(3)(activation(hk.Conv2D(8, 3)(x)).mean((1, 2)))

  assert tatnet.trace(forward, jax.ShapeDtypeStruct((2, 8, 8, 3), F32)) == LAYER
