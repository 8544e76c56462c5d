"""Findings in published networks, in every kind of batch normalisation, and on wrong use."""

import collections

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import tatnet

KEY = jax.random.key(0)
VECTORS = jax.ShapeDtypeStruct((4, 8), jnp.float32)
IMAGES = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)


def findings_of(call):
  with pytest.raises(tatnet.TopologyError) as caught:
    call()
  return caught.value.findings


def normalisations(forward):
  """Paths of the batch normalisations of a Haiku function, from their parameters."""
  parameters, _ = jax.eval_shape(hk.transform_with_state(forward).init, KEY, IMAGES)
  return {name.replace("/~", "") for name, leaves in parameters.items() if "offset" in leaves}


def places(findings, kind):
  return [finding.place for finding in findings if finding.kind == kind]


def test_resnet_50_as_it_ships():
  def forward(images):
    return hk.nets.ResNet50(1000)(images, is_training=True)

  with pytest.warns(tatnet.TopologyWarning, match="max pooling at res_net50"):
    findings = findings_of(lambda: tatnet.trace(forward, IMAGES))
  kinds = collections.Counter(finding.kind for finding in findings)
  assert kinds == {"batch normalisation": 53, "sum not normalised": 16}
  assert set(places(findings, "batch normalisation")) == normalisations(forward)
  assert places(findings, "sum not normalised") == [
    f"res_net50/block_group_{group}/block_{block}"
    for group, blocks in enumerate((3, 4, 6, 3))
    for block in range(blocks)
  ]
  # Four shortcuts are convolutions with q = 1, twelve come from a ReLU, which halves q.
  sums = [finding.what for finding in findings if finding.kind == "sum not normalised"]
  assert sum("squares add to 2" in what for what in sums) == 4
  assert sum("squares add to 1.5" in what for what in sums) == 12


def test_mobilenet_as_it_ships():
  def forward(images):
    return hk.nets.MobileNetV1(num_classes=10)(images, is_training=True)

  with pytest.warns(tatnet.TopologyWarning, match="depthwise convolution between"):
    findings = findings_of(lambda: tatnet.trace(forward, IMAGES))
  assert {finding.kind for finding in findings} == {"batch normalisation"}
  assert len(findings) == 27
  assert set(places(findings, "batch normalisation")) == normalisations(forward)


def test_mobilenet_without_normalisation_is_a_chain():
  def forward(images):
    return hk.nets.MobileNetV1(num_classes=10, use_bn=False)(images, is_training=True)

  with pytest.warns(tatnet.TopologyWarning, match="q far from 1"):  # ReLU halves it each time
    topology = tatnet.trace(forward, IMAGES)
  assert topology.num_nonlinear == 27
  relu = tatnet.cmap(tatnet.chain(27), "relu", 0.1)
  assert tatnet.cmap(topology, "tanh", 0.1) == pytest.approx(relu, abs=1e-12)


def test_mlp_as_it_ships():
  topology = tatnet.trace(lambda x: hk.nets.MLP([32, 32, 10])(x), VECTORS)
  assert topology.num_nonlinear == 2
  relu = tatnet.cmap(tatnet.chain(2), "relu", 0.1)
  assert tatnet.cmap(topology, "tanh", 0.1) == pytest.approx(relu, abs=1e-12)


def test_mlp_with_the_activation_as_argument():
  def forward(x, activation):
    return hk.nets.MLP([32, 32, 10], activation=activation, activate_final=True)(x)

  assert tatnet.trace(forward, VECTORS) == tatnet.chain(3)


def haiku_net(train):
  def forward(x, activation=tatnet.placeholder):
    x = hk.BatchNorm(True, True, 0.9, name="normal")(hk.Linear(8)(x), train, test_local_stats=False)
    return hk.Linear(3)(activation(x))

  return hk.transform_with_state(forward)


def haiku_batch_norm(train):
  parameters = haiku_net(True).init(KEY, jnp.ones([4, 8]))
  return lambda p, x: haiku_net(train).apply(*p, KEY, x)[0], parameters, "normal"


class Linen(nn.Module):
  train: bool

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=not self.train, name="normal")(nn.Dense(8)(x))
    return nn.Dense(3)(tatnet.placeholder(x))


def linen_batch_norm(train):
  def apply(p, x):
    return Linen(train).apply(p, x, mutable=["batch_stats"])[0]

  return apply, Linen(True).init(KEY, jnp.ones([4, 8])), "Linen/normal"


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(8, 8, rngs=rngs)
    self.normal = nnx.BatchNorm(8, rngs=rngs)

  def __call__(self, x):
    return tatnet.placeholder(self.normal(self.first(x)))


def nnx_batch_norm(train):
  model = Nnx(nnx.Rngs(0))
  (model.train if train else model.eval)()
  graph, state = nnx.split(model)
  return lambda state, x: nnx.merge(graph, state)(x), state, "test_findings_models.py"


class Equinox(eqx.Module):
  first: eqx.nn.Linear
  normal: eqx.nn.BatchNorm

  def __init__(self):
    self.first = eqx.nn.Linear(8, 8, use_bias=False, key=KEY)
    self.normal = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch")

  def __call__(self, x, state):
    x, _ = self.normal(self.first(x), state)
    return tatnet.placeholder(x)


def equinox_batch_norm(train):
  model, state = eqx.nn.make_with_state(Equinox)()

  def apply(parameters, x):
    model, state = parameters
    return jax.vmap(lambda x: model(x, state), axis_name="batch")(x)

  return apply, (eqx.nn.inference_mode(model, not train), state), "eqx.nn.BatchNorm"


def by_hand(train):
  def apply(p, x, activation):
    x = x @ p["w"]
    mean, var = x.mean(0), (x * x).mean(0) - x.mean(0) ** 2
    if not train:
      mean, var = p["batch_stats"]
    return activation((x - mean) / jnp.sqrt(var + 1e-5) * p["gain"])

  statistics = jnp.zeros(8), jnp.ones(8)
  parameters = {"w": jnp.ones([8, 8]), "gain": jnp.ones(8), "batch_stats": statistics}
  return apply, parameters, "test_findings_models.py"


BATCH_NORMS = [haiku_batch_norm, linen_batch_norm, nnx_batch_norm, equinox_batch_norm, by_hand]


@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("kind", BATCH_NORMS, ids=lambda kind: kind.__name__)
def test_batch_normalisation(kind, train):
  apply, parameters, place = kind(train)
  (finding,) = findings_of(lambda: tatnet.trace_apply(apply, parameters, VECTORS))
  assert finding.kind == "batch normalisation"
  assert finding.place.startswith(place)
  assert "remove it" in finding.remedy


def test_other_normalisations_are_allowed():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      for norm in (nn.LayerNorm(), nn.RMSNorm(), nn.GroupNorm(2), nn.InstanceNorm()):
        x = tatnet.placeholder(norm(nn.Conv(8, (3, 3))(x)))
      return x

  parameters = jax.eval_shape(Net().init, KEY, IMAGES)
  with pytest.warns(tatnet.TopologyWarning, match="instance normalisation at Net/InstanceNorm_0"):
    assert tatnet.trace_apply(Net().apply, parameters, IMAGES) == tatnet.chain(4)


@pytest.mark.parametrize("init", [hk.initializers.Constant(0.1), hk.initializers.RandomNormal()])
def test_biases_must_start_at_zero(init):
  def forward(x, activation):
    return activation(hk.Linear(8, b_init=init, name="first")(x))

  (finding,) = findings_of(lambda: tatnet.trace(forward, VECTORS))
  random = isinstance(init, hk.initializers.RandomNormal)
  kind = "parameter without a uniform initial value" if random else "constant added to a signal"
  assert finding.kind == kind
  assert ("first/b" in finding.what) if random else ("0.1" in finding.what)


def test_biases_of_shapes_are_taken_to_be_zero():
  model = eqx.nn.MLP(8, 8, 16, 3, activation=tatnet.placeholder, key=KEY)
  with pytest.raises(tatnet.TopologyError, match="does not start at one number"):
    tatnet.trace_apply(lambda m, x: jax.vmap(m)(x), model, VECTORS)
  shapes = eqx.filter_eval_shape(lambda: model)
  assert tatnet.trace_apply(lambda m, x: jax.vmap(m)(x), shapes, VECTORS) == tatnet.chain(3)


def forward(x, activation):
  return activation(hk.Linear(8)(x))


@pytest.mark.parametrize("transform", [hk.transform, hk.transform_with_state])
def test_a_function_that_is_transformed_already(transform):
  with pytest.raises(TypeError, match=r"before hk\.transform.*trace_apply"):
    tatnet.trace(transform(forward), VECTORS)


def test_arguments_that_the_function_does_not_take():
  with pytest.raises(TypeError, match=r"'act'.*under the name 'activation'"):
    tatnet.trace(lambda x, act: act(hk.Linear(8)(x)), jnp.ones([2, 8]))


@pytest.mark.parametrize("trace", [tatnet.trace, tatnet.trace_apply])
def test_no_function(trace):
  with pytest.raises(TypeError, match=r"expected .*function"):
    trace(3, VECTORS, VECTORS)


@pytest.mark.parametrize("inputs", [((8, 4),), (None,), ([8, 4],)])
def test_inputs_that_are_no_arrays(inputs):
  with pytest.raises(TypeError, match=r"^trace got .*expected arrays.*ShapeDtypeStruct"):
    tatnet.trace(lambda *x, activation: activation(x[0]), *inputs)
  with pytest.raises(TypeError, match=r"^trace_apply got .*expected arrays.*ShapeDtypeStruct"):
    tatnet.trace_apply(lambda params, *x: x[0], {}, *inputs)


@pytest.mark.parametrize("inputs", [(), (jax.ShapeDtypeStruct((4,), jnp.int32),)])
def test_no_float_input(inputs):
  def constant(*inputs, activation):
    return activation(jnp.ones([4, 8]))

  with pytest.raises(ValueError, match="depends on its float inputs"):
    tatnet.trace(constant, *inputs)


def test_the_models_own_errors_come_through():
  with pytest.raises(TypeError, match="contracting dimensions"):
    tatnet.trace_apply(lambda w, x: x @ w, jnp.ones([3, 3]), VECTORS)

  def impatient(x, activation):
    raise RuntimeError("no network today")

  with pytest.raises(RuntimeError, match="no network today"):
    tatnet.trace(impatient, VECTORS)


def test_the_placeholder_is_no_activation():
  assert jnp.isnan(tatnet.placeholder(jnp.ones(3))).all()
