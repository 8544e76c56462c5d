"""Networks against re-implementations in plain JAX that read the same parameters."""

import dataclasses
import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tatnet.nets import CifarResNet, ResNet, resnet

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def jitted(function, **kwargs):
  """Compiled for a single use."""
  return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **kwargs)


def bent(x):
  """An activation of no special scale or symmetry."""
  return jnp.where(x > 0, x, 0.3 * x) + 0.1


def conv(layer, x, stride=1):
  y = jax.lax.conv_general_dilated(
    x, layer["w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return y + layer["b"]


def head(layer, x):
  return x.mean((1, 2)) @ layer["w"] + layer["b"]


def network_and_params(network, depth, size, **options):
  """Logits of random images, and the parameters; no bias and no tap of them is zero."""
  model = hk.transform(lambda x: network(depth, 5, activation=bent, name="net", **options)(x))
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, size, size, 3)).astype(np.float32)

  def draw(leaf):
    fan_in = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
    return (rng.normal(size=leaf.shape) / math.sqrt(fan_in)).astype(np.float32)

  params = jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), images))
  logits = jitted(model.apply)(params, None, images)
  return logits, {name.removeprefix("net/"): layer for name, layer in params.items()}, images


def plain_cifar_resnet(params, x, version, weight, blocks):
  shortcut_weight, branch_weight = (
    (1, 1) if weight is None else (weight, math.sqrt(1 - weight * weight))
  )
  x = conv(params["stem"], x)
  if version == 1:
    x = bent(x)
  for stage in (1, 2, 3):
    for number in range(1, blocks + 1):
      name = f"stage_{stage}_block_{number}"
      stride = 2 if stage > 1 and number == 1 else 1
      entry = bent(x) if version == 2 else x
      shortcut = x
      if f"{name}/projection" in params:
        shortcut = conv(params[f"{name}/projection"], entry, stride)
      branch = conv(params[f"{name}/layer_1"], entry, stride)
      branch = conv(params[f"{name}/layer_2"], bent(branch))
      total = branch_weight * branch
      if shortcut_weight:
        total = total + shortcut_weight * shortcut
      x = bent(total) if version == 1 else total
  return head(params["logits"], bent(x) if version == 2 else x)


@pytest.mark.parametrize("weight", [0.0, 0.6, None])
@pytest.mark.parametrize("version", [1, 2])
def test_blocks_add_the_weighted_shortcut(version, weight):
  logits, params, images = network_and_params(
    CifarResNet, 14, 4, version=version, shortcut_weight=weight
  )
  projections = [name for name in params if "projection" in name]
  assert len(projections) == (0 if weight == 0 else 2)
  plain = jitted(plain_cifar_resnet, static_argnums=(2, 3, 4))
  expected = plain(params, images, version, weight, 2)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def strided_layers(depth):
  """Name and stride of every convolution behind the stem, in the order of the signal."""
  layers = 2 if depth < 50 else 3
  for stage, blocks in enumerate(BLOCKS[depth], start=1):
    for block in range(1, blocks + 1):
      for layer in range(1, layers + 1):
        # The first 3x3 convolution of a stage makes the step: a bottleneck's second layer.
        is_strided = stage > 1 and block == 1 and layer == layers - 1
        yield f"stage_{stage}_block_{block}/layer_{layer}", 2 if is_strided else 1


def plain_chain(params, x, depth, version):
  """Convolutions and activations in a row: what is left of a ResNet without shortcuts."""
  x = conv(params["stem"], x, 2)
  x = bent(x) if version == 1 else x
  x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
  for name, stride in strided_layers(depth):
    layer = params[name]
    x = bent(conv(layer, x, stride)) if version == 1 else conv(layer, bent(x), stride)
  return head(params["logits"], x if version == 1 else bent(x))


@pytest.fixture
def narrow(monkeypatch):
  """ResNets with an eighth of their channels."""
  plan_of = resnet.resnet_plan

  def narrowed(depth, version):
    plan = plan_of(depth, version)
    stem = dataclasses.replace(plan.stem, channels=8)
    stages = (dataclasses.replace(s, channels=s.channels // 8) for s in plan.stages)
    return dataclasses.replace(plan, stem=stem, stages=tuple(stages))

  monkeypatch.setattr(resnet, "resnet_plan", narrowed)


@pytest.mark.parametrize(("depth", "version"), [(18, 1), (18, 2), (50, 1)])
def test_without_shortcuts_a_resnet_is_a_sequence(depth, version, narrow):
  logits, params, images = network_and_params(ResNet, depth, 32, version=version)
  assert set(params) == {"stem", "logits", *(name for name, _ in strided_layers(depth))}
  expected = jitted(plain_chain, static_argnums=(2, 3))(params, images, depth, version)
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(np.std(expected)))
