"""Every network learns: a step along the gradient reduces the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tatnet

DENSE = {"width": 32, "depth": 20}
SMALL, LARGE = (4, 4, 4, 3), (4, 16, 16, 3)


@pytest.mark.parametrize(
  ("name", "shape", "options"),
  [
    ("mlp", (16, 20), DENSE),
    ("mlp-bn", (16, 20), DENSE),
    ("mlp-skipinit", (16, 20), DENSE),
    ("cifar_resnet20", SMALL, {}),
    ("cifar_resnet8", SMALL, {"version": 1, "normalization": "weight", "method": tatnet.TAT(0.5)}),
    ("cifar_resnet8", SMALL, {"normalization": "layer", "method": tatnet.TAT(0.5)}),
    ("cifar_resnet8-bn", SMALL, {}),
    ("preact_resnet18-rescaled", SMALL, {}),
    ("resnet18", LARGE, {}),
    ("identity_resnet34", LARGE, {}),
  ],
)
def test_a_gradient_step_reduces_the_loss(name, shape, options):
  network = tatnet.nets.create(name, 5, **options)
  x = tatnet.per_location_normalize(jax.random.normal(jax.random.key(0), shape))
  labels = jnp.arange(len(x)) % 5
  params, state = network.initialize(jax.random.key(1), x)

  def loss(params):
    logits, _ = network.apply(params, state, None, x, True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def after_step(params, grads, step):
    params = jax.tree.map(lambda p, g: p - step * g, params, grads)
    value, grads = jax.value_and_grad(loss)(params)
    return value, grads, optax.tree.norm(grads) ** 2

  before, grads, size = after_step(params, params, 0.0)
  assert np.isfinite(size)
  # So small a step that the loss falls as the gradient says: by 2 %.
  after, *_ = after_step(params, grads, 0.02 * before / size)
  assert 1 - after / before == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("name", ["mlp", "mlp-eoc", "mlp-bn", "mlp-skipinit", "mlp-prelu"])
def test_every_parameter_gets_a_gradient(name):
  network = tatnet.nets.create(name, 5, **DENSE)
  x = jax.random.normal(jax.random.key(0), (16, 20))
  params, state = network.initialize(jax.random.key(1), x)
  if name == "mlp-skipinit":  # at 0 only the factors themselves have one
    params = jax.tree.map(lambda leaf: leaf + 0.1 if leaf.ndim == 1 else leaf, params)

  def loss(params):
    return jnp.sum(jnp.sin(network.apply(params, state, None, x, True)[0]))

  grads = jax.jit(jax.grad(loss))(params)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
