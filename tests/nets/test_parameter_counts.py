"""Numbers of parameters: those of torchvision and of the papers, and sums over layer shapes."""

import jax
import jax.numpy as jnp
import pytest

import tatnet

# Of torchvision.models.resnet*, 1000 classes.
TORCHVISION = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def params_of(name, num_classes, size=64, **options):
  network = tatnet.nets.create(name, num_classes, **options)
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(network.init, jax.random.key(0), images)[0]


def count(name, num_classes, **options):
  return sum(leaf.size for leaf in jax.tree.leaves(params_of(name, num_classes, **options)))


def conv(window, inputs, outputs, bias=False):
  return window**2 * inputs * outputs + bias * outputs


@pytest.mark.parametrize("depth", TORCHVISION)
def test_standard_resnets_have_the_parameters_of_torchvision(depth):
  assert count(f"resnet{depth}-bn", 1000) == TORCHVISION[depth]


@pytest.mark.parametrize(("depth", "published"), [(56, 853018), (110, 1727962)])
def test_cifar_resnets_have_no_parameters_on_shortcuts(depth, published):
  total, inputs = conv(3, 3, 16) + 2 * 16, 16
  for outputs in (16, 32, 64):
    for _ in range((depth - 2) // 6):
      total += conv(3, inputs, outputs) + conv(3, outputs, outputs) + 2 * 2 * outputs
      inputs = outputs
  assert count(f"cifar_resnet{depth}-bn", 10) == total + 64 * 10 + 10 == published


def test_the_multiplier_widens_every_hidden_layer():
  total, inputs = conv(3, 3, 48, bias=True), 48
  for outputs in (48, 96, 192):
    for _ in range(3):
      total += conv(3, inputs, outputs, bias=True) + conv(3, outputs, outputs, bias=True)
      inputs = outputs
  assert count("cifar_resnet20", 10, width=3) == total + 192 * 10 + 10


def test_a_vanilla_resnet50_is_convolutions_with_biases():
  total, inputs = conv(7, 3, 64, bias=True), 64
  for blocks, outputs in zip(BLOCKS[50], (256, 512, 1024, 2048), strict=True):
    for _ in range(blocks):
      inner = outputs // 4
      total += conv(1, inputs, inner, bias=True) + conv(3, inner, inner, bias=True)
      total += conv(1, inner, outputs, bias=True)
      inputs = outputs
  total += 2048 * 1000 + 1000
  assert count("resnet50", 1000) == count("resnet50", 1000, version=1) == total
  assert round(total / 1e6, 1) == 22.8


def test_preact_resnet18_has_no_norm_behind_the_last_block():
  total, inputs = conv(3, 3, 64), 64
  for blocks, outputs in zip(BLOCKS[18], (64, 128, 256, 512), strict=True):
    for _ in range(blocks):
      total += 2 * inputs + conv(3, inputs, outputs) + 2 * outputs + conv(3, outputs, outputs)
      total += conv(1, inputs, outputs) if inputs != outputs else 0
      inputs = outputs
  # As the network that MacDonald et al. modify.
  assert count("preact_resnet18-bn", 10) == total + 512 * 10 + 10 == 11171146


def test_identity_resnet56_trains_55_convolutions_and_nothing_else():
  params = params_of("identity_resnet56", 10, size=32)
  assert {name for layer in params.values() for name in layer} == {"w"}
  shapes = [layer["w"].shape for layer in params.values()]
  assert len(shapes) == 55
  assert all(shape[:2] == (3, 3) for shape in shapes)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 13538736


def test_identity_resnet34_has_the_convolutions_of_resnet34_without_shortcuts():
  total, inputs = conv(7, 3, 64), 64
  for blocks, outputs in zip(BLOCKS[34], (64, 128, 256, 512), strict=True):
    for _ in range(blocks):
      total += conv(3, inputs, outputs) + conv(3, outputs, outputs)
      inputs = outputs
  assert count("identity_resnet34", 1000) == total
  assert round(total / 1e6, 1) == 21.1


def test_an_mlp_has_its_hidden_layers_and_the_last():
  params = tatnet.nets.create("mlp", 10, width=32, depth=30).init
  params, _ = jax.eval_shape(params, jax.random.key(0), jax.ShapeDtypeStruct((2, 20), jnp.float32))
  expected = (20 * 32 + 32) + 29 * (32 * 32 + 32) + (32 * 10 + 10)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
