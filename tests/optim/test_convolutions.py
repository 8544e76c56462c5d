"""Factors of convolutions against explicit patches, in Haiku models and in plain functions."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import (
  as_matrix,
  inputs_factor,
  outputs_factor,
  patches_of,
  quick_jit,
  same_padding,
)

from tatnet import optim

BATCH, CHANNELS, OUTPUTS = 3, 2, 3

# Space, kernel, stride, dilation, padding, bias.
GEOMETRIES = {
  "1d": ((7,), (3,), (1,), (1,), "SAME", True),
  "1d strided, dilated": ((11,), (3,), (2,), (2,), "VALID", True),
  "1d wide kernel": ((5,), (4,), (1,), (1,), "SAME", False),
  "2d": ((5, 4), (3, 3), (1, 1), (1, 1), "SAME", True),
  "2d strided, even size": ((6, 5), (3, 3), (2, 2), (1, 1), "SAME", True),
  "2d valid, not square": ((5, 6), (2, 3), (1, 1), (1, 1), "VALID", False),
  "2d explicit padding": ((4, 5), (3, 2), (2, 1), (1, 1), ((0, 2), (1, 0)), True),
  "2d dilated": ((6, 7), (3, 3), (1, 1), (2, 2), "SAME", True),
  "2d cropped": ((6, 6), (3, 3), (1, 1), (1, 1), ((-1, 0), (0, -2)), True),
  "1x1": ((4, 3), (1, 1), (1, 1), (1, 1), "SAME", True),
  "1x1 strided": ((5, 4), (1, 1), (2, 2), (1, 1), "SAME", True),
  "1x1 padded": ((3, 3), (1, 1), (2, 1), (1, 1), ((1, 1), (0, 1)), True),
  "3d": ((4, 3, 4), (2, 3, 2), (1, 2, 1), (1, 1, 1), "SAME", True),
}
MODULES = {1: hk.Conv1D, 2: hk.Conv2D, 3: hk.Conv3D}


def explicit(space, size, stride, dilation, padding):
  if padding == "SAME":
    return same_padding(space, size, stride, dilation)
  return tuple((0, 0) for _ in space) if padding == "VALID" else padding


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_factors_are_moments_of_explicit_patches(geometry):
  space, size, stride, dilation, padding, with_bias = geometry
  module = MODULES[len(space)]

  def forward(x):
    return module(
      OUTPUTS, size, stride, dilation, padding, with_bias, b_init=hk.initializers.Constant(0.3)
    )(x)

  def plain(params, taps, observer, x):
    (name,) = params
    layer = params[name]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return observer.convolution(x, layer["w"], layer.get("b"), taps[name], **options)

  with jax.enable_x64(True):
    x = np.random.default_rng(0).normal(size=(BATCH, *space, CHANNELS)) + 0.5
    network = hk.transform(forward)
    params = quick_jit(network.init)(jax.random.key(0), x)
    patches = patches_of(x, size, stride, dilation, explicit(*geometry[:5]))

    @quick_jit
    def evaluate(params, y):
      return {
        f"{sharing}, {name}": optim.value_grad_and_factors(
          model, optim.SquaredError(), curvature="empirical", sharing=sharing
        )(params, x, y)
        for sharing, name, model in (
          ("expand", "haiku", network),
          ("reduce", "haiku", network),
          ("reduce", "plain", plain),
        )
      }

    (layer,) = params.values()
    inputs = patches if not with_bias else np.concatenate([patches, patches[..., :1] * 0 + 1], -1)
    outputs = inputs @ as_matrix(layer)
    shape = jax.eval_shape(network.apply, params, None, x).shape
    y = np.random.default_rng(1).normal(size=shape)
    results = evaluate(params, jnp.asarray(y))

  # The loss is half the squared error: its gradient is the difference itself.
  g = outputs - y.reshape(outputs.shape)
  for name, result in results.items():
    sharing = name.partition(",")[0]
    np.testing.assert_allclose(result.outputs.reshape(outputs.shape), outputs, atol=1e-13)
    (found,) = result.factors.layers.values()
    expected = inputs_factor(patches, sharing, with_bias)
    np.testing.assert_allclose(found["inputs"], expected, atol=1e-12)
    np.testing.assert_allclose(found["outputs"], outputs_factor(g, sharing), atol=1e-12)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_dense_layers_share_their_weights_over_locations_as_convolutions_do(sharing):
  x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
  y = np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32)

  def flattened(x):  # rows of an example stay together
    return hk.Linear(2)(x.reshape(-1, 3)).reshape(4, 5, 2)

  network = hk.transform(lambda x: hk.Linear(2)(x))
  params = network.init(jax.random.key(0), x)
  g = x @ np.asarray(params["linear"]["w"]) - y
  for model in (network, hk.transform(flattened)):
    evaluate = optim.value_grad_and_factors(
      model, optim.SquaredError(), curvature="empirical", sharing=sharing
    )
    found = quick_jit(evaluate)(params, x, y).factors.layers["linear"]
    np.testing.assert_allclose(found["inputs"], inputs_factor(x, sharing), rtol=1e-5)
    np.testing.assert_allclose(found["outputs"], outputs_factor(g, sharing), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_frames_of_a_video_are_locations_of_one_example(sharing):
  x = np.random.default_rng(0).normal(size=(3, 2, 4, 1)).astype(np.float32)  # batch, frame, ...

  def forward(x):
    return hk.Conv1D(1, 3, padding="VALID", with_bias=False)(x.reshape(6, 4, 1)).reshape(3, 2, 2)

  network = hk.transform(forward)
  params = network.init(jax.random.key(0), x)
  evaluate = optim.value_grad_and_factors(
    network, optim.SquaredError(), curvature="empirical", sharing=sharing
  )
  found = quick_jit(evaluate)(params, x, jnp.zeros((3, 2, 2))).factors.layers["conv1_d"]
  patches = patches_of(x.reshape(6, 4, 1), (3,), (1,), (1,), ((0, 0),)).reshape(3, 4, 3)
  g = patches @ np.asarray(params["conv1_d"]["w"])[:, 0]
  expected = inputs_factor(patches, sharing, with_bias=False)
  np.testing.assert_allclose(found["inputs"], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found["outputs"], outputs_factor(g, sharing), rtol=1e-5, atol=1e-6)


def test_a_convolution_that_covers_its_input_has_the_factors_of_a_dense_layer():
  x = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)
  y = np.zeros((4, 3), np.float32)

  def convolution(params, taps, observer, x):
    layer = params["layer"]
    y = observer.convolution(x, layer["w"], layer["b"], taps["layer"], padding="VALID")
    return y.reshape(4, 3)

  def dense(params, taps, observer, x):
    layer = params["layer"]
    w = layer["w"].reshape(-1, 3)
    return observer.dense(x.reshape(4, -1), w, layer["b"], taps["layer"])

  w = np.random.default_rng(1).normal(size=(3, 2, 2, 3)).astype(np.float32)
  params = {"layer": {"w": jnp.asarray(w), "b": jnp.ones(3)}}
  found = [
    quick_jit(optim.value_grad_and_factors(f, optim.SquaredError(), curvature="empirical"))(
      params, x, y
    ).factors
    for f in (convolution, dense)
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)
