"""Mixed precision by jmp: parameters and outputs stay float32, in between it is bfloat16."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

import tatnet
from tatnet.nets import MLP, CifarResNet, IdentityResNet, PreActResNet, ResNet, create

HALF = jmp.get_policy("params=float32,compute=bfloat16,output=float32")
# Statistics in float32, as Haiku's own example asks for.
NORM = jmp.get_policy("params=float32,compute=float32,output=bfloat16")
DENSE = {"width": 64, "depth": 20}
IMAGES = (4, 4, 4, 3)


@pytest.fixture
def half():
  """A function that sets the policy for a network's class; always undone."""
  classes = []

  def set_policy(cls):
    classes.extend([cls, hk.BatchNorm])
    hk.mixed_precision.set_policy(cls, HALF)
    hk.mixed_precision.set_policy(hk.BatchNorm, NORM)

  yield set_policy
  for cls in set(classes):
    hk.mixed_precision.clear_policy(cls)


@pytest.mark.parametrize(
  ("cls", "name", "shape", "options"),
  [
    (MLP, "mlp", (8, 32), {**DENSE, "stacked": True}),
    (MLP, "mlp", (8, 32), {**DENSE, "stacked": False, "shortcut_weight": 0.5}),
    (MLP, "mlp-bn", (8, 32), DENSE),
    (CifarResNet, "cifar_resnet20", IMAGES, {"normalization": "layer"}),
    (CifarResNet, "cifar_resnet20", IMAGES, {"normalization": "weight"}),
    (CifarResNet, "cifar_resnet20-bn", IMAGES, {}),
    (CifarResNet, "cifar_resnet20-skipinit", IMAGES, {}),
    (CifarResNet, "cifar_resnet20-prelu", IMAGES, {}),
    (ResNet, "resnet18", (2, 16, 16, 3), {}),
    (PreActResNet, "preact_resnet18", IMAGES, {"shortcut_weight": 0.5, "method": tatnet.TAT(0.8)}),
    (IdentityResNet, "identity_resnet34", (2, 16, 16, 3), {}),
  ],
)
def test_parameters_and_outputs_are_float32(cls, name, shape, options, half):
  network = create(name, 10, **options)
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

  def shapes():
    # Of a function that JAX has not seen, else it recalls what it was without the policy.
    return jax.eval_shape(lambda key: network.init(key, x), jax.random.key(0))

  expected = shapes()
  half(cls)
  found = shapes()
  assert found == expected
  (logits, state), layers = run_abstractly(network, *found, x)
  assert logits.dtype == jnp.float32
  assert state == expected[1]
  assert layers == {jnp.dtype(jnp.bfloat16)}


def run_abstractly(network, params, state, x):
  """Shapes of the results, and the dtypes that convolutions and dense layers work in."""
  seen = set()

  def record(next_f, args, kwargs, context):
    out = next_f(*args, **kwargs)
    if isinstance(context.module, hk.Conv2D | hk.Linear) and context.method_name == "__call__":
      seen.add(out.dtype)
    return out

  with hk.intercept_methods(record):
    shapes = jax.eval_shape(lambda p, s, x: network.apply(p, s, None, x, True), params, state, x)
  return shapes, seen


def drawn(shapes):
  """Parameters and state as at the start but for their law, which takes no compiling."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = path[-1].key
    if name in ("w", "projection"):
      window = leaf.shape[:-2] if leaf.ndim == 4 else ()  # else it is dense, perhaps stacked
      return rng.normal(size=leaf.shape) / np.sqrt(np.prod(window) * leaf.shape[-2])
    return np.full(leaf.shape, name == "scale")

  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: draw(path, leaf).astype(leaf.dtype), shapes
  )


@pytest.mark.parametrize(
  ("cls", "name", "shape", "options"),
  [
    (MLP, "mlp", (8, 32), {**DENSE, "stacked": True}),
    (CifarResNet, "cifar_resnet20", IMAGES, {"shortcut_weight": 0.5, "method": tatnet.TAT(0.8)}),
    (CifarResNet, "cifar_resnet20-bn", (8, 8, 8, 3), {}),
    (PreActResNet, "preact_resnet18", (2, 4, 4, 3), {}),
    (ResNet, "resnet18", (2, 16, 16, 3), {}),
    (IdentityResNet, "identity_resnet34", (2, 16, 16, 3), {"shortcut_weight": 0.5}),
  ],
)
def test_half_precision_computes_the_same_roughly(cls, name, shape, options, half):
  network = create(name, 10, **options)
  x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  params, state = drawn(jax.eval_shape(network.init, jax.random.key(0), x))

  def logits():
    run = jax.jit(
      lambda params: network.apply(params, state, None, x, True)[0],
      compiler_options={"xla_backend_optimization_level": 0},
    )
    return run(params)

  expected = logits()
  half(cls)
  found = logits()
  # Roundings of up to 2^-8 at each of 10 to 20 layers, which batch normalisation amplifies.
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert 1e-5 < error < 0.04


def test_fast_initialisation_rounds_nothing(half):
  network = create("cifar_resnet8", 10, method=tatnet.TAT(0.5))
  expected, _ = network.initialize(jax.random.key(0), jnp.ones(IMAGES))
  half(CifarResNet)
  found, _ = network.initialize(jax.random.key(0), jnp.ones(IMAGES))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
