"""Every network learns: a step along the gradient reduces the loss."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

import tatnet
from tatnet.nets import cifar, identity, resnet

FAST_COMPILATION = {"xla_backend_optimization_level": 0}
DENSE = {"width": 16, "depth": 20}
SMALL, LARGE = (4, 4, 4, 3), (4, 16, 16, 3)


@pytest.fixture
def narrow(monkeypatch):
  """The plans of the wide networks with an eighth of their channels."""

  def narrowed(plan):
    stem = dataclasses.replace(plan.stem, channels=plan.stem.channels // 8)
    stages = (dataclasses.replace(s, channels=s.channels // 8) for s in plan.stages)
    return dataclasses.replace(plan, stem=stem, stages=tuple(stages))

  resnet_plan, preact_plan = resnet.resnet_plan, cifar.preact_plan
  monkeypatch.setattr(resnet, "resnet_plan", lambda *args: narrowed(resnet_plan(*args)))
  monkeypatch.setattr(cifar, "preact_plan", lambda depth: narrowed(preact_plan(depth)))
  monkeypatch.setitem(identity.PLANS, 34, narrowed(identity.PLANS[34]))


@pytest.mark.parametrize(
  ("name", "shape", "options"),
  [
    ("mlp", (8, 20), DENSE),
    ("cifar_resnet8", SMALL, {"version": 1, "normalization": "weight", "method": tatnet.TAT(0.5)}),
    ("cifar_resnet8-bn", SMALL, {}),
    ("preact_resnet18-rescaled", SMALL, {}),
    ("resnet18", LARGE, {}),
    ("identity_resnet34", LARGE, {}),
  ],
)
def test_a_gradient_step_reduces_the_loss(name, shape, options, narrow):
  network = tatnet.nets.create(name, 5, **options)
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  labels = np.arange(len(x)) % 5
  params, state = network.initialize(jax.random.key(1), x)

  def loss(params):
    logits, _ = network.apply(params, state, None, x, True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @functools.partial(jax.jit, compiler_options=FAST_COMPILATION)
  def after_step(params, grads, step):
    params = jax.tree.map(lambda p, g: p - step * g, params, grads)
    value, grads = jax.value_and_grad(loss)(params)
    return value, grads, optax.tree.norm(grads) ** 2

  before, grads, size = after_step(params, params, 0.0)
  assert np.isfinite(size)
  # So small a step that the loss falls as the gradient says: by 2 %.
  after, *_ = after_step(params, grads, 0.02 * float(before) / float(size))
  assert 1 - float(after) / float(before) == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("name", ["mlp", "mlp-bn", "mlp-skipinit", "mlp-prelu"])
def test_every_parameter_gets_a_gradient(name):
  network = tatnet.nets.create(name, 5, **DENSE)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(16, 20)).astype(np.float32)
  # Not the initial ones: while the factors of SkipInit are zero nothing behind them learns.
  shapes, state = jax.eval_shape(network.init, jax.random.key(1), x)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)

  def loss(params):
    return (network.apply(params, state, None, x, True)[0] ** 3).sum()

  grads = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILATION)(params)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
