"""`trace` on models of many kinds: their maps, their activations, their inputs."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import KEY, topology_of
from models_elsewhere import MODELS as ELSEWHERE
from models_haiku import MODELS as HAIKU

import tatnet
from tatnet.network.lines import Dropout

MODELS = {model.name: model for model in [*HAIKU, *ELSEWHERE]}
F32 = jnp.float32


@pytest.fixture(params=MODELS)
def model(request):
  return MODELS[request.param]


def leaky_relu_map(a):
  """C map of max(x, a x): identity plus what bends, for unit Gaussians (TAT paper, Appendix A)."""

  def r(c):
    c = min(c, 1.0)  # rounding
    bend = math.sqrt((1 - c) * (1 + c)) - c * math.acos(c)
    return c + (1 - a) ** 2 / (math.pi * (1 + a**2)) * bend

  return r


# What the methods compose, and where: C maps at 0, slopes at 1, curvatures at 0.
CASES = [
  *((0.0, leaky_relu_map(a)) for a in (0.0, 0.2, 0.5, 0.9)),
  *((1.0, lambda y, psi=psi: psi * y) for psi in (1.01, 1.5)),
  *((0.0, lambda y, kappa=kappa: y + kappa) for kappa in (0.01, 1.0)),
]


def test_the_maximum_is_the_one_derived_by_hand(model):
  topology = topology_of(model)
  for x, r in CASES:
    assert topology.maximum(x, r) == pytest.approx(model.maximum(x, r), rel=1e-12, abs=1e-12)


def test_every_activation_that_runs_is_mapped(model):
  ran = []

  def counting(x):
    jax.debug.callback(lambda: ran.append(None))  # counts the turns of a loop as well
    return jnp.tanh(x)

  output = model.run(counting, jnp.ones(model.shape))
  jax.effects_barrier()
  assert topology_of(model).num_nonlinear == len(ran)
  assert jnp.isfinite(output).all()


def test_arrays_and_shapes_read_the_same(model):
  topology = topology_of(model)
  assert topology_of(model, jnp.ones(model.shape)) == topology
  assert topology_of(model, np.ones(model.shape, np.float64)) == topology


def test_a_topology_solves(model):
  topology = topology_of(model)
  shaped = tatnet.transform_activation("softplus", topology, tatnet.DKS(zeta=1.5))
  slope = model.maximum(1.0, lambda y: shaped.local.c_slope * y)
  assert slope == pytest.approx(1.5, abs=1e-9)


BLOCK = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
ALGEBRA = {
  "mlp": tatnet.chain(4),
  "all-conv": tatnet.chain(7),
  "vgg False": tatnet.chain(6),
  "vgg True": tatnet.sequence(tatnet.chain(5), Dropout(0.5), tatnet.chain(1)),
  "resnet v1 bottleneck w=0": tatnet.chain(10),
  "resnet v2 basic w=0 projections": tatnet.chain(11),
  "mixer": tatnet.sequence(*[BLOCK] * 4),
  "stacked": tatnet.sequence(*[tatnet.nonlinear(), BLOCK] * 5, tatnet.nonlinear()),
  "flax linen training": tatnet.sequence(BLOCK, BLOCK, tatnet.chain(2)),
  "flax nnx": tatnet.sequence(BLOCK, BLOCK, tatnet.nonlinear()),
  "equinox": tatnet.sequence(BLOCK, BLOCK, tatnet.nonlinear()),
  "stateful": tatnet.chain(2),
}


@pytest.mark.parametrize("name", ALGEBRA)
def test_equal_to_the_algebra(name):
  topology = topology_of(MODELS[name])
  assert topology == ALGEBRA[name]
  assert hash(topology) == hash(ALGEBRA[name])


def test_keyword_arguments_are_passed_on():
  def forward(x, activation, depth, *, widths=(8,), scale):
    for width in widths * depth:
      x = scale * x + (1 - scale**2) ** 0.5 * hk.Linear(width)(activation(hk.Linear(8)(x)))
    return x

  x = jax.ShapeDtypeStruct((4, 8), F32)
  block = tatnet.weighted_sum((0.8, tatnet.identity()), (0.6, tatnet.nonlinear()))
  assert tatnet.trace(forward, x, depth=3, scale=0.8) == tatnet.sequence(*[block] * 3)
  assert tatnet.trace(forward, x, depth=1, widths=(8, 8), scale=0) == tatnet.chain(2)


def test_several_inputs_of_several_kinds():
  def forward(inputs, steps, activation):
    x = hk.Linear(8)(inputs["left"]) * 0.6 + hk.Linear(8)(inputs["right"]) * 0.8
    embedded = hk.Embed(10, 8)(steps)
    return hk.Linear(2)(activation(0.6 * x + 0.8 * embedded))

  image = jax.ShapeDtypeStruct((4, 5), F32)
  steps = jax.ShapeDtypeStruct((4,), jnp.int32)
  topology = tatnet.trace(forward, {"left": image, "right": image}, steps)
  assert topology.num_nonlinear == 1


def test_of_several_outputs_the_deepest():
  def forward(x, activation):
    early = activation(hk.Linear(8)(x))
    return {"early": early, "late": activation(hk.Linear(8)(activation(hk.Linear(8)(early))))}

  assert tatnet.trace(forward, jnp.ones([4, 8])) == tatnet.chain(3)


@pytest.mark.parametrize("kind", [hk.transform, hk.transform_with_state])
def test_the_function_is_what_haiku_transforms(kind):
  """Tracing a function leaves nothing in it: Haiku can still transform and run it."""

  def forward(x, activation):
    return hk.Linear(3)(activation(hk.Linear(8)(x)))

  tatnet.trace(forward, jnp.ones([4, 5]))
  network = kind(lambda x: forward(x, jnp.tanh))
  parameters = network.init(KEY, jnp.ones([4, 5]))
  parameters = parameters if isinstance(parameters, tuple) else (parameters,)
  output = network.apply(*parameters, KEY, jnp.ones([4, 5]))
  assert jax.tree.leaves(output)[0].shape == (4, 3)


class Block(hk.Module):
  def __call__(self, x, activation):
    y = hk.Linear(8, name="inner")(activation(x))
    return 0.6 * x + 0.8 * y


def places(topology):
  for part in topology.subnetworks():
    if hasattr(part, "where"):
      yield part.where


def test_places_are_module_paths():
  def forward(x, activation):
    x = hk.Linear(8)(x)
    for stage in range(2):
      x = Block(name=f"block_{stage}")(x, activation)
    return x

  topology = tatnet.trace(forward, jnp.ones([4, 5]))
  assert "block_0" in repr(topology)
  assert "block_0" in list(places(topology))


def apply_plainly(weights, x, activation):
  for w in weights:
    x = activation(x @ w)
  return x


def test_places_are_source_lines_of_plain_functions():
  topology = tatnet.trace_apply(apply_plainly, [jnp.ones([8, 8])] * 2, jnp.ones([4, 8]))
  line = apply_plainly.__code__.co_firstlineno + 2
  (place,) = set(places(topology)) - {None}
  assert place == f"test_models.py:{line} (apply_plainly)"


def test_a_deep_network_is_drawn_on_a_page():
  """16 blocks, 53 layers: repeats are folded, and every line fits the screen."""

  def forward(x, activation):
    x = hk.Conv2D(8, 3)(x)
    for stage, count in enumerate((3, 4, 6, 3)):
      for _ in range(count):
        y = x
        for kernel in (1, 3, 1):
          y = hk.Conv2D(8, kernel)(activation(y))
        x = (0.5 + stage / 10) * x + (1 - (0.5 + stage / 10) ** 2) ** 0.5 * y
    return activation(x)

  lines = repr(tatnet.trace(forward, jax.ShapeDtypeStruct((8, 32, 32, 3), F32))).splitlines()
  assert len(lines) == 4 * 3 + 1
  assert [line.split()[0] for line in lines if " x sum" in line] == ["3", "4", "6", "3"]
  assert all("3 x nonlinear" in line for line in lines[2::3])
  assert max(map(len, lines)) <= 100
