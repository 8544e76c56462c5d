"""Constant operands: what they do to q is known, or it is said that it is not."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import tatnet

N, T = 16, 8
RNG = np.random.default_rng(0)
TOKENS = jax.ShapeDtypeStruct((4, T, N), jnp.float32)
W = [jax.ShapeDtypeStruct((N, N), jnp.float32)] * 3


def trace(forward, inputs=TOKENS):
  return tatnet.trace_apply(forward, W, inputs)


def findings(forward, inputs=TOKENS):
  with pytest.raises(tatnet.TopologyError) as caught:
    trace(forward, inputs)
  return [(finding.kind, finding.what) for finding in caught.value.findings]


def features_by(matrix):
  def forward(w, x, activation):
    return activation(activation(x @ w[0]) @ matrix @ w[1]) @ w[2]

  return forward


def tokens_by(matrix):
  def forward(w, x, activation):
    x = jnp.einsum("ij,bjd->bid", matrix, activation(x @ w[0]))
    return activation(x @ w[1]) @ w[2]

  return forward


ORTHOGONAL = {
  "hadamard": scipy.linalg.hadamard(N) / math.sqrt(N),
  "rotation": np.linalg.qr(RNG.normal(size=(N, N)))[0],
  "permutation": np.eye(N)[RNG.permutation(N)],
  "identity": np.eye(N),
}


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_matrices_change_nothing(name):
  assert trace(features_by(ORTHOGONAL[name])) == tatnet.chain(2)


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_their_multiples_change_q(name):
  ((kind, what),) = findings(features_by(1.5 * ORTHOGONAL[name]))
  assert (kind, what) == ("q is not 1 at an activation", "its input has q = 2.25")


def test_any_matrix_behind_weights_counts_by_its_columns():
  matrix = RNG.normal(size=(64, 64))
  size = math.sqrt(np.mean(np.sum(matrix**2, 0)))

  def forward(w, x, activation):
    return activation((x @ w[0]) @ (matrix / size) @ w[1]) @ w[2]

  wide = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 3
  assert tatnet.trace_apply(
    forward, wide, jax.ShapeDtypeStruct((4, 64), jnp.float32)
  ) == tatnet.chain(1)


@pytest.mark.parametrize(
  "matrix",
  [RNG.normal(size=(N, N)), np.ones((N, N)), np.eye(N) - 1 / N],
  ids=["any", "ones", "centring"],
)
def test_any_other_matrix_behind_an_activation_is_found(matrix):
  ((kind, _),) = findings(features_by(matrix))
  assert kind == "constant matrix"


def test_sums_over_tokens_are_found_with_what_they_may_do():
  ((kind, what),) = findings(tokens_by(np.ones((T, T))))
  assert kind == "constant matrix"
  assert f"norms go from {math.sqrt(T):.4g}" in what
  assert f"sums from {T}" in what


def test_means_over_tokens_are_averages():
  causal = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
  for mean in (np.full((T, T), 1 / T), causal):
    with pytest.warns(tatnet.TopologyWarning, match="averaging between nonlinear layers"):
      assert trace(tokens_by(mean)) == tatnet.chain(2)


def test_tokens_in_another_order_are_the_same():
  assert trace(tokens_by(np.eye(T)[::-1])) == tatnet.chain(2)
  ((_, what),) = findings(tokens_by(3 * np.eye(T)))
  assert what == "its input has q = 9"


def test_matrices_that_the_model_makes_are_constants_too():
  def forward(w, x, activation):
    mask = jnp.tril(jnp.ones((T, T)))
    return activation((mask / mask.sum(1, keepdims=True)) @ activation(x @ w[0]) @ w[1]) @ w[2]

  with pytest.warns(tatnet.TopologyWarning, match="averaging between nonlinear layers"):
    assert trace(forward) == tatnet.chain(2)


@pytest.mark.parametrize("where", ["left", "between", "weights", "right", "behind"])
def test_a_factor_is_the_same_factor_wherever_it_stands(where):
  def forward(w, x, activation):
    x = x @ w[0]
    y = activation(x)
    y = {
      "left": lambda: (0.8 * y) @ w[1],
      "between": lambda: y @ (0.8 * jnp.eye(N)) @ w[1],
      "weights": lambda: y @ (0.8 * w[1]),
      "right": lambda: (y @ w[1]) * 0.8,
      "behind": lambda: y @ w[1] / 1.25,
    }[where]()
    return activation(0.6 * x + y) @ w[2]

  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  assert trace(forward) == block >> tatnet.nonlinear()


@pytest.mark.parametrize("scale", ["weights", "behind"])
def test_the_root_of_the_inputs_is_part_of_the_weights(scale):
  """Weights of variance 1, divided in the model."""

  def forward(w, x, activation):
    for weight in w:
      x = activation(x @ (weight / N**0.5) if scale == "weights" else (x @ weight) / N**0.5)
    return x

  assert trace(forward) == tatnet.chain(3)


def test_weights_that_are_closed_over_are_asked_for():
  weights = RNG.normal(size=(2, N, N))

  def forward(w, x, activation):
    x = activation(x @ weights[0])
    return activation(x @ weights[1]) @ w[0]

  found = findings(forward)
  assert {kind for kind, _ in found} == {"constant matrix"}


def test_standardised_weights_behind_an_activation():
  def forward(w, x, activation):
    for weight in w:
      x = activation(x @ (weight - weight.mean(0)))
    return x

  assert {kind for kind, _ in findings(forward)} == {"standardised weights"}


def test_kernels_that_are_not_delta():
  def forward(params, x, activation):
    for kernel in params:
      x = activation(
        jax.lax.conv_general_dilated(
          x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
      )
    return x

  images = jax.ShapeDtypeStruct((2, 6, 6, N), jnp.float32)
  dense = jnp.asarray(RNG.normal(size=(3, 3, N, N)) / math.sqrt(9 * N))
  delta = jnp.zeros((3, 3, N, N)).at[1, 1].set(dense[0, 0])
  assert tatnet.trace_apply(forward, [delta] * 1, images) == tatnet.nonlinear()
  with pytest.warns(tatnet.TopologyWarning, match="kernels that are not Delta"):
    tatnet.trace_apply(forward, [dense], images)


def test_transposed_and_depthwise_convolutions_are_warned_of():
  def forward(x, activation):
    x = activation(hk.Conv2D(8, 3)(x))
    x = activation(hk.DepthwiseConv2D(1, 3)(x))
    return hk.Conv2DTranspose(8, 3, stride=2)(x)

  images = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32)
  with pytest.warns(tatnet.TopologyWarning, match=r"depthwise(.|\n)*transposed convolution"):
    assert tatnet.trace(forward, images) == tatnet.chain(2)
