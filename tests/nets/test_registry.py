"""Networks by name: all are built, and each baseline is the configuration of its paper."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet
from tatnet.nets import BASELINES, TRANSFORMER_BASELINES, create, names

SHALLOWEST = {"mlp": "", "resnet": 18, "cifar_resnet": 20, "preact_resnet": 18}
SHALLOWEST |= {"identity_resnet": 34}
MLP = {"width": 16, "depth": 20}
TRANSFORMER = {"width": 16, "depth": 4, "heads": 2, "context": 6}
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def built(name, **options):
  sizes = {"mlp": MLP, "transformer": TRANSFORMER, "vision_transformer": TRANSFORMER | {"patch": 2}}
  return create(name, 10, **(sizes.get(name.partition("-")[0], {}) | options))


def shapes(network, x=IMAGES):
  return jax.eval_shape(network.init, jax.random.key(0), x)


@pytest.mark.parametrize("name", names())
def test_every_name_is_created(name):
  network = built(name)
  assert network.name == name
  assert callable(network.activation)


def test_names_are_architectures_with_and_without_baselines():
  others = [name for name in names() if "transformer" not in name]
  assert len(others) == len(set(others)) == (1 + 6 + 5 + 6 + 2) * (1 + len(BASELINES))
  assert len(names()) == len(set(names())) == len(others) + 2 * (1 + len(TRANSFORMER_BASELINES))
  assert {"resnet152", "cifar_resnet110-noshort", "identity_resnet56", "mlp-bn"} <= set(names())


@pytest.mark.parametrize("baseline", ["", *BASELINES])
@pytest.mark.parametrize("stem", SHALLOWEST)
def test_networks_run_and_keep_the_structure_of_their_state(stem, baseline):
  name = f"{stem}{SHALLOWEST[stem]}" + (f"-{baseline}" if baseline else "")
  assert name in names()
  network = built(name)
  params, state = shapes(network)
  for is_training in (True, False):
    logits, after = jax.eval_shape(
      lambda p, s, x, flag=is_training: network.apply(p, s, None, x, flag), params, state, IMAGES
    )
    assert logits == jax.ShapeDtypeStruct((2, 10), jnp.float32)
    assert after == state


def test_cifar_resnets_of_other_depths():
  assert built("cifar_resnet26-noshort").topology == tatnet.chain(25)


def parts(name, **options):
  params, _ = shapes(built(name, **options))
  return {layer.split("/")[-1] for layer in params}, params


def test_bn_is_version_1_with_batch_norm_and_ordinary_sums():
  network = built("resnet18-bn")
  assert network.topology is None
  assert network.options["shortcut_weight"] is None
  found, _ = parts("resnet18-bn")
  # In version 1 norms follow the stem and the layers of a block, and the projection.
  assert {"stem_norm", "norm_1", "norm_2", "projection", "projection_norm"} <= found
  assert not {"norm_0", "final_norm"} & found


def test_noshort_is_the_same_without_shortcuts():
  with_shortcuts, without = parts("resnet18-bn")[0], parts("resnet18-noshort")[0]
  assert with_shortcuts - without == {"projection", "projection_norm"}
  assert without <= with_shortcuts
  assert built("resnet18-noshort").topology == tatnet.chain(17)


def test_cifar_baselines_have_the_same_parameters():
  assert shapes(built("cifar_resnet20-bn")) == shapes(built("cifar_resnet20-noshort"))


def test_eoc_is_the_relu_on_orthogonal_weights():
  network = built("mlp-eoc")
  x = jnp.linspace(-2, 2, 9)
  np.testing.assert_allclose(network.activation(x), math.sqrt(2) * np.maximum(x, 0), rtol=1e-6)
  params, _ = jax.tree.map(np.asarray, network.initialize(jax.random.key(0), jnp.ones([1, 16])))
  hidden = [
    layer["w"].reshape(-1, 16, 16) for name, layer in params.items() if "logits" not in name
  ]
  for w in np.concatenate(hidden):
    np.testing.assert_allclose(w @ w.T, np.eye(16), atol=1e-5)


def test_rescaled_has_the_weight_of_the_papers_rescaled_resnets():
  network = built("resnet50-rescaled")
  assert network.options["shortcut_weight"] == 0.8
  assert network.topology == tatnet.nets.ResNet.topology(50, shortcut_weight=0.8)
  assert network.activation == built("resnet50-eoc").activation


def test_skipinit_starts_as_its_shortcuts():
  network = built("cifar_resnet20-skipinit")
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
  params, _ = network.initialize(jax.random.key(0), images)
  gains = [layer["residual_gain"] for layer in params.values() if "residual_gain" in layer]
  np.testing.assert_array_equal(gains, np.zeros(9))

  def conv(name, x, stride=1):
    layer = params[f"cifar_resnet/{name}"]
    y = jax.lax.conv_general_dilated(
      x, layer["w"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["b"]

  @jax.jit
  def expected():
    x = conv("stem", images)
    for stage in (2, 3):
      x = conv(f"stage_{stage}_block_1/projection", jax.nn.relu(x), 2)
    logits = params["cifar_resnet/logits"]
    return jax.nn.relu(x).mean((1, 2)) @ logits["w"] + logits["b"]

  found, _ = jax.jit(network.apply)(params, {}, None, images)
  np.testing.assert_allclose(found, expected(), rtol=1e-4, atol=1e-5)


def test_prelu_trains_slopes_that_start_at_a_quarter():
  network = built("cifar_resnet8-prelu")
  images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
  params, _ = network.initialize(jax.random.key(0), images)
  slopes = {name: layer["slope"] for name, layer in params.items() if "slope" in layer}
  assert len(slopes) == network.topology.num_nonlinear == 7
  assert all(np.all(slope == 0.25) for slope in slopes.values())
  grads = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, {}, None, images)[0] ** 2)))(params)
  assert all(np.any(grads[name]["slope"]) for name in slopes)


def test_prelu_keeps_q_by_its_initialisation():
  network = create("mlp-prelu", 10, width=512, depth=8, stacked=False)
  x = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
  seen = []

  def record(next_f, args, kwargs, context):
    if context.method_name == "__call__" and context.module.name.startswith("prelu"):
      seen.append(jnp.mean(jnp.square(args[0])))
    return next_f(*args, **kwargs)

  def q_values(key):
    params, state = network.init(key, x)
    seen.clear()  # of the initialisation
    with hk.intercept_methods(record):
      network.apply(params, state, None, x)
    return jnp.stack(seen)

  found = np.mean(jax.jit(jax.vmap(q_values))(jax.random.split(jax.random.key(1), 4)), axis=0)
  assert len(found) == 8
  # Weights have variance 2 / (1 + a^2) per input, which the activation undoes. Layers
  # scatter by sqrt(5 / width) each: the mean of the networks by up to 0.15.
  assert found / (2 / (1 + 0.25**2)) == pytest.approx(1, abs=0.4)


@pytest.mark.filterwarnings("ignore:Version 1 with shortcut_weight")
def test_options_come_before_the_baseline():
  network = built("cifar_resnet20-bn", version=2, shortcut="projection", normalization=None)
  found, _ = parts("cifar_resnet20-bn", version=2, shortcut="projection", normalization=None)
  assert found == {"stem", "layer_1", "layer_2", "projection", "logits"}
  assert network.options["version"] == 2
  weighted = built("cifar_resnet20-noshort", shortcut_weight=0.5)
  assert weighted.topology.num_nonlinear < 19 + 9
  assert any("projection" in layer for layer in shapes(weighted)[0])


def test_an_own_method_and_activation():
  network = built("cifar_resnet20", activation="softplus", method=tatnet.DKS(1.3))
  expected = tatnet.transform_activation("softplus", tatnet.chain(19), tatnet.DKS(1.3))
  assert network.activation == expected
  shaped = built("cifar_resnet20-noshort", normalization=None, activation=expected)
  assert shaped.activation == expected


def test_options_of_a_network_are_read_only():
  with pytest.raises(TypeError):
    built("mlp").options["width"] = 3
