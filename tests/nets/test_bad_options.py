"""What makes no sense is refused: messages name what was given and what to do."""

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import tatnet
from tatnet.nets import MLP, CifarResNet, IdentityResNet, Options, PreActResNet, ResNet, create

SHAPED = tatnet.transform_activation("tanh", tatnet.chain(20), tatnet.DKS())


def says(error, *parts):
  message = str(error.value)
  assert all(part in message for part in parts), message


@pytest.mark.parametrize("weight", [True, "0.5", -0.1, 1, 1.0, 2, float("nan"), 0.5j])
def test_shortcut_weights_out_of_range(weight):
  for refused in (
    lambda: Options(activation=jnp.tanh, shortcut_weight=weight),
    lambda: ResNet.topology(50, shortcut_weight=weight),
  ):
    with pytest.raises(ValueError, match="shortcut_weight=") as error:
      refused()
    says(error, f"shortcut_weight={weight!r}", "[0, 1)", "None for the ordinary sum")


@pytest.mark.parametrize(
  ("options", "parts"),
  [
    ({"normalization": "group"}, ["'group'", "'batch', 'layer', 'weight'"]),
    ({"shortcut": "identity"}, ["'identity'", "'projection', 'pool', 'pool+projection'"]),
    ({"dropout_rate": 1.0}, ["dropout_rate=1.0", "[0, 1)"]),
    ({"dropout_rate": -0.1}, ["dropout_rate=-0.1", "[0, 1)"]),
    (
      {"shortcut": "pool+projection", "shortcut_weight": 0.5},
      ["'pool+projection'", "shortcut_weight=0.5", "Expected shortcut_weight=None"],
    ),
    (
      {"residual_gain": 0.0, "shortcut_weight": 0.5},
      ["residual_gain=0.0", "shortcut_weight=0.5", "Expected shortcut_weight=None"],
    ),
    (
      {"residual_gain": 0.0},
      ["residual_gain=0.0", "shortcut_weight=0.0", "Expected shortcut_weight=None"],
    ),
    (
      {"normalization": "batch", "activation": SHAPED},
      ["normalization='batch'", "tanh", "'layer' or 'weight'", "jax.nn.relu"],
    ),
    (
      {"shortcut_weight": None, "activation": SHAPED},
      ["shortcut_weight=None", "tanh", "a number w in [0, 1)"],
    ),
  ],
  ids=str,
)
def test_options_that_do_not_go_together(options, parts):
  with pytest.raises(ValueError, match="xpected") as error:
    Options(**({"activation": jnp.tanh} | options))
  says(error, *parts)


@pytest.mark.parametrize("activation", ["tanh", None, 3])
def test_activations_that_are_not_functions(activation):
  with pytest.raises(TypeError, match="expected a function of arrays") as error:
    Options(activation=activation)
  says(error, f"activation={activation!r}", "tatnet.transform_activation")


@pytest.mark.parametrize(
  ("call", "parts"),
  [
    (lambda: ResNet.topology(19), ["ResNet got depth=19", "18, 34, 50, 101, 152, 200"]),
    (lambda: PreActResNet.topology(20), ["depth=20", "18, 34, 50, 101, 152, 200"]),
    (lambda: ResNet.topology(50, version=3), ["version=3", "1 (", "2 ("]),
    (lambda: CifarResNet.topology(20, version=0), ["version=0", "1 (", "2 ("]),
    (lambda: CifarResNet.topology(21), ["CifarResNet got depth=21", "6n + 2", "20, 32"]),
    (lambda: CifarResNet.topology(2), ["depth=2", "n at least 1"]),
    (lambda: IdentityResNet.topology(50, shortcut_weight=0.0), ["depth=50", "56", "34"]),
    (lambda: MLP.topology(0, 5), ["width=0", "depth=5", "positive"]),
    (lambda: MLP.topology(5, 0), ["width=5", "depth=0", "positive"]),
  ],
)
def test_sizes_that_do_not_exist(call, parts):
  with pytest.raises(ValueError, match="expected") as error:
    call()
  says(error, *parts)


@pytest.mark.parametrize(
  "topology",
  [
    lambda: MLP.topology(8, 5, shortcut_weight=None),
    lambda: ResNet.topology(50, shortcut_weight=None),
    lambda: CifarResNet.topology(20, shortcut_weight=None),
    lambda: PreActResNet.topology(18, shortcut_weight=None),
    lambda: IdentityResNet.topology(56),  # its default is the paper's ordinary sum
  ],
)
def test_ordinary_sums_have_no_topology(topology):
  with pytest.raises(ValueError, match="shortcut_weight=None has no topology") as error:
    topology()
  says(error, "Expected a number w in [0, 1)", "sqrt(1 - w^2)")


def build(network, *sizes, shape, dtype=jnp.float32, **options):
  """Initialises abstractly."""
  model = hk.transform_with_state(lambda x: network(*sizes, 3, **options)(x))
  return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))


@pytest.mark.parametrize(
  ("network", "sizes"), [(ResNet, (18,)), (CifarResNet, (20,)), (PreActResNet, (18,))]
)
def test_pooled_sums_in_front_of_a_shaped_activation(network, sizes):
  options = {"activation": SHAPED, "shortcut": "pool", "shortcut_weight": 0.5}
  with pytest.raises(ValueError, match="padded with zeros") as error:
    build(network, *sizes, shape=(1, 32, 32, 3), **options)
  says(error, "shortcut='pool'", "shortcut_weight=0.5", "tanh", "Expected shortcut='projection'")


def test_pooled_sums_are_fine_where_no_activation_reads_them():
  options = {"activation": SHAPED, "shortcut": "pool", "shortcut_weight": 0.5}
  build(IdentityResNet, 56, shape=(1, 32, 32, 3), **options)
  build(MLP, 8, 5, shape=(1, 3), **options)  # it changes no shape
  build(CifarResNet, 20, shape=(1, 32, 32, 3), **(options | {"shortcut_weight": 0.0}))


@pytest.mark.parametrize(
  ("network", "sizes", "shape", "dtype", "expected"),
  [
    (CifarResNet, (20,), (32, 32, 3), jnp.float32, "[batch, height, width, channels]"),
    (ResNet, (18,), (1, 32, 32, 3), jnp.uint8, "float array [batch, height, width, channels]"),
    (IdentityResNet, (56,), (1, 32, 32, 3), jnp.int32, "float array"),
    (MLP, (8, 5), (784,), jnp.float32, "[batch, ...]"),
    (MLP, (8, 5), (4, 784), jnp.uint8, "float array [batch, ...]"),
  ],
)
def test_inputs_of_another_rank_or_dtype(network, sizes, shape, dtype, expected):
  with pytest.raises(ValueError, match="expected a float array") as error:
    build(network, *sizes, shape=shape, dtype=dtype, activation=jnp.tanh)
  says(error, network.__name__, str(shape), jnp.dtype(dtype).name, expected)


def test_pooling_to_fewer_channels():
  with pytest.raises(ValueError, match="pooled got channels=2 for an input of 3"):
    tatnet.nets.pooled(jnp.ones([1, 4, 4, 3]), 2, 2)


@pytest.mark.parametrize(
  ("name", "suggestion"),
  [
    ("resnt50", "'resnet50'"),
    ("resnet50-bm", "'resnet50-bn'"),
    ("resnet", "'resnet18'"),
    ("mlp5", "'mlp'"),
    ("cifarresnet20-noshort", "'cifar_resnet20-noshort'"),
  ],
)
def test_unknown_names(name, suggestion):
  with pytest.raises(ValueError, match=rf"Did you mean .*{suggestion}") as error:
    create(name, 10)
  says(error, repr(name), "-bn, -noshort, -eoc, -rescaled, -skipinit, -prelu")


def test_a_name_like_no_other():
  with pytest.raises(ValueError, match=r"'vgg'; expected one of tatnet.nets.names\(\)") as error:
    create("vgg", 10)
  assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize(
  ("name", "options", "error", "part"),
  [
    ("resnet19", {}, ValueError, "depth=19"),
    ("cifar_resnet21", {}, ValueError, "6n + 2"),
    ("resnet50", {"version": 3}, ValueError, "version=3"),
    ("resnet50", {"colour": 3}, TypeError, "colour"),
    ("mlp", {"width": 8}, TypeError, "depth"),
    ("resnet50", {"activation": "relu"}, ValueError, "leaky_relu"),
    ("resnet50", {"shortcut_weight": None}, ValueError, "shortcut_weight=None"),
    ("resnet50-bn", {"method": tatnet.TAT()}, ValueError, "shortcut_weight=None"),
    ("resnet50-bn", {"shortcut_weight": "0.5"}, ValueError, "'0.5'"),
    ("resnet50", {"normalization": "batch"}, ValueError, "normalization='batch'"),
    ("resnet50-skipinit", {"shortcut_weight": 0.5}, ValueError, "residual_gain=0.0"),
    ("cifar_resnet20", {"shortcut": "pool", "shortcut_weight": 0.5}, ValueError, "padded"),
    ("cifar_resnet8", {}, ValueError, "out of reach for 7 nonlinear layers"),
  ],
)
def test_create_refuses_before_the_network_is_used(name, options, error, part):
  with pytest.raises(error) as info:
    create(name, 10, **options)
  says(info, part)
