"""Effective learning rates of networks, and which parameters are scale invariant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tatnet.nets
from tatnet.diagnostics.dynamics import (
  critical_learning_rate,
  effective_learning_rates,
  scale_changes,
  scale_invariant,
)
from tatnet.diagnostics.dynamics.trees import named_leaves

IMAGES = jax.random.normal(jax.random.key(1), [16, 16, 16, 3])
LABELS = jnp.arange(16) % 10


def _outputs(name, **options):
  network = tatnet.nets.create(name, 10, **options)
  params, state = network.initialize(jax.random.key(0), IMAGES)
  return lambda p: network.apply(p, state, None, IMAGES, is_training=True)[0], params


def _found(function, params, **options):
  return {
    n for n, flag in named_leaves(scale_invariant(function, params, **options)).items() if flag
  }


def _cross_entropy(outputs, params):
  return optax.softmax_cross_entropy_with_integer_labels(outputs(params), LABELS).mean()


def _resnet_changes(of_outputs):
  outputs, params = _outputs("cifar_resnet8-bn")
  function = outputs if of_outputs else functools.partial(_cross_entropy, outputs)
  return named_leaves(scale_changes(function, params))


def _invariant(changes):
  return {name for name, change in changes.items() if change < 1e-2}


@pytest.mark.parametrize("of_outputs", [True, False])
def test_convolutions_of_resnet_v1_are_scale_invariant_and_nothing_else(of_outputs):
  changes = _resnet_changes(of_outputs)
  convolutions = {name for name in changes if name.endswith("/w") and "logits" not in name}
  assert _invariant(changes) == convolutions
  assert len(convolutions) == 7
  assert max(changes[name] for name in convolutions) < 1e-3
  assert min(change for name, change in changes.items() if name not in convolutions) > 0.05


def test_last_convolution_of_a_block_of_version_2_is_not_scale_invariant():
  found = _found(*_outputs("cifar_resnet8-bn", version=2))
  assert {name.split("/")[-2] for name in found} == {"layer_1"}
  assert len(found) == 3


def test_no_parameter_of_a_network_without_normalisation_is():
  assert not _found(*_outputs("mlp-eoc", width=16, depth=3))


@pytest.mark.parametrize("stacked", [False, True])
def test_layer_norm_mlp(stacked):
  outputs, params = _outputs(
    "mlp",
    width=32,
    depth=3,
    normalization="layer",
    activation=jax.nn.relu,
    shortcut_weight=0.0,
    stacked=stacked,
  )
  weights = {n for n in named_leaves(params) if n.endswith("/w") and "logits" not in n}
  if not stacked:
    # While offsets are 0, the scale before relu, dense layer and normalisation is invariant
    # too: noise tells it from the weights.
    assert any(name.endswith("scale") for name in _found(outputs, params, jitter=0.0))
  gradients = jax.jit(jax.grad(functools.partial(_cross_entropy, outputs)))(params)
  mask = scale_invariant(outputs, params)
  assert {name for name, flag in named_leaves(mask).items() if flag} == weights
  rates = effective_learning_rates(params, gradients, mask)
  assert rates.vector.shape == (3,)
  if stacked:
    (stack,) = (n for n in rates.rates if "layer_stack" in n)
    assert rates.rates[stack].shape == (2,)
    leaves, slopes = named_leaves(params)[stack], named_leaves(gradients)[stack]
    expected = [np.linalg.norm(g) / np.linalg.norm(w) for g, w in zip(slopes, leaves, strict=True)]
    np.testing.assert_allclose(rates.rates[stack], expected, rtol=1e-5)


def test_stacked_layers_count_only_if_all_of_them_are_invariant():
  def loss(params):
    first, second = params["layer_stack/linear"]["w"]
    return jnp.sin(first / jnp.linalg.norm(first)).sum() + jnp.sin(second).sum()

  assert not _found(loss, {"layer_stack/linear": {"w": jnp.ones([2, 5])}})


def test_bias_before_batch_norm_and_unused_parameters_are_not_counted():
  rng = np.random.default_rng(0)
  x = rng.standard_normal([32, 8])

  def outputs(params):
    h = x @ params["hidden"]["w"] + params["hidden"]["b"]  # which the normalisation removes
    h = jax.nn.relu((h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5))
    return h @ params["head"]["w"]

  params = {
    "hidden": {"w": rng.standard_normal([8, 16]), "b": np.zeros(16)},
    "head": {"w": rng.standard_normal([16, 4]), "unused": np.ones(3), "number": np.arange(2)},
  }
  assert _found(outputs, jax.tree.map(jnp.asarray, params)) == {"hidden/w"}


def test_gradients_are_orthogonal_to_what_is_found():
  with jax.enable_x64(True):
    x = jax.random.normal(jax.random.key(0), [32, 16], float)
    keys = jax.random.split(jax.random.key(1), 6)
    params = {
      f"layer_{i:02}": jax.random.normal(key, [16, 16], float) / 3 for i, key in enumerate(keys)
    }

    def loss(params):
      h = x
      for w in list(params.values())[:-1]:
        h = h @ w
        h = jax.nn.relu((h - h.mean(0)) / h.std(0))
      return jnp.mean(jnp.square(h @ params["layer_05"] - x))

    slopes = jax.jit(jax.grad(loss))(params)
    cosines = {
      name: float(jnp.vdot(w, slopes[name]) / jnp.linalg.norm(w) / jnp.linalg.norm(slopes[name]))
      for name, w in params.items()
    }
    found = _found(loss, params)
  assert found == params.keys() - {"layer_05"}
  assert max(abs(cosines[name]) for name in found) < 1e-12
  assert abs(cosines["layer_05"]) > 1e-3


def test_gradients_grow_backwards_through_batch_norm_and_relu():
  """By sqrt(pi / (pi - 1)) = 1.211 per layer in theory; 1.202 in the notes, at width 256."""
  depth, width = 24, 256
  name = "layer_stack/linear"

  def loss(params):
    def layer(h, w):
      h = h @ w
      return jax.nn.relu((h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)), None

    first, last = jax.random.normal(jax.random.key(0), [2, 128, width])
    return jnp.sum(jax.lax.scan(layer, first, params[name]["w"])[0] * last)

  weights = jax.random.normal(jax.random.key(2), [depth, width, width]) * (2 / width) ** 0.5
  params = {name: {"w": weights}}
  vector = effective_learning_rates(params, jax.jit(jax.grad(loss))(params)).vector
  growth = np.exp(-np.polyfit(np.arange(depth), np.log(vector), 1)[0])
  assert growth == pytest.approx(1.205, abs=0.025)


def test_statistics_of_rates():
  weights = {"a": {"w": jnp.full([4], 0.5)}, "b": {"w": jnp.array([3.0, 4.0])}}
  slopes = {"a": {"w": jnp.array([1e-2, 0, 0, 0])}, "b": {"w": jnp.array([-400.0, 300.0])}}
  found = jax.jit(effective_learning_rates)(weights, slopes)
  np.testing.assert_allclose(found.vector, [1e-2, 100.0], rtol=1e-6)
  np.testing.assert_allclose(list(found.base_norms.values()), [1e-2, 2500.0], rtol=1e-6)
  assert float(found.spread) == pytest.approx(1e4, rel=1e-5)
  assert float(found.log10_spread) == pytest.approx(4.0, rel=1e-5)
  assert float(found.log_std) == pytest.approx(np.log(100), rel=1e-5)
  assert float(found.critical) == pytest.approx(1.0, rel=1e-5)


def test_norms_neither_overflow_nor_vanish():
  weights = {"a": jnp.full([4], 1e25), "b": jnp.full([4], 1e-25)}
  slopes = {"a": jnp.full([4], 1e-5), "b": jnp.full([4], 1e-27)}
  found = effective_learning_rates(weights, slopes)
  np.testing.assert_allclose(found.vector, [1e-30, 1e-2], rtol=1e-5)
  assert float(found.critical) == pytest.approx(1e16, rel=1e-4)


def test_layers_without_gradient_do_not_change_the_critical_rate():
  assert float(critical_learning_rate(jnp.array([0.0, 0.1, 10.0]))) == pytest.approx(1.0)
  assert float(critical_learning_rate(jnp.zeros(2))) == float("inf")


PARAMS = {"conv": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(3)}}


@pytest.mark.parametrize(
  ("mask", "error", "message"),
  [
    ({"conv": {"w": True}}, ValueError, "differ in 'head/w'"),
    ({"conv": {"w": False}, "head": {"w": False}}, ValueError, "selects none of"),
    ({"conv": {"w": 1.0}, "head": {"w": True}}, TypeError, "has 1.0 for 'conv/w'"),
  ],
)
def test_bad_masks_are_refused(mask, error, message):
  with pytest.raises(error, match=message):
    effective_learning_rates(PARAMS, PARAMS, mask)


def test_gradients_of_other_parameters_are_refused():
  with pytest.raises(ValueError, match="gradients lack 'conv/w'"):
    effective_learning_rates(PARAMS, {"head": PARAMS["head"]})
  with pytest.raises(ValueError, match=r"'conv/w' has shape \(2,\)"):
    effective_learning_rates(PARAMS, PARAMS | {"conv": {"w": jnp.ones(2)}})


def test_loss_that_is_not_finite_is_refused():
  with pytest.raises(ValueError, match="not finite"):
    scale_invariant(lambda p: jnp.log(-jnp.abs(p["w"])).sum(), {"w": jnp.ones(2)})
  with pytest.raises(ValueError, match="jitter=-1"):
    scale_invariant(lambda p: p["w"].sum(), {"w": jnp.ones(2)}, jitter=-1)
