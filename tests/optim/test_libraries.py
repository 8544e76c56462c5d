"""Models of other libraries have the loss, gradients and factors of the same plain function."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from kfac_references import quick_jit

import tatnet
from tatnet import optim
from tatnet.optim.layers import as_layers

BATCH, TIME = 4, 3
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 5, (BATCH, TIME))
LABELS = RNG.integers(0, 2, BATCH)
both_kinds = pytest.mark.parametrize("sharing", ["reduce", "expand"])


def draw(*shape):
  return RNG.normal(size=shape)


# An embedding, a convolution over time, a normalisation, a dense layer that runs twice, and a last.
LAYERS = {
  "embed": {"embeddings": draw(5, 2)},
  "conv": {"w": draw(3, 2, 4), "b": draw(4)},
  "norm": {"scale": draw(4), "offset": draw(4)},
  "twice": {"w": draw(4, 4), "b": draw(4)},
  "last": {"w": draw(4, 2)},
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def normalized(x):
  return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def plain(params, taps, observer, ids):
  def of(name):
    return [params[name].get("w"), params[name].get("b"), taps[name]]

  x = observer.embedding(ids, params["embed"]["embeddings"], taps["embed"])
  x = jnp.tanh(observer.convolution(x, *of("conv")))
  norm = params["norm"]
  x = observer.scale_and_offset(normalized(x), norm["scale"], norm["offset"], taps["norm"])
  for _ in range(2):
    x = jnp.tanh(observer.dense(x, *of("twice")))
  return observer.dense(x, *of("last")).mean(axis=1)


class Linen(nn.Module):
  @nn.compact
  def __call__(self, ids):
    x = nn.Embed(5, 2, name="embed")(ids)
    x = jnp.tanh(nn.Conv(4, (3,), name="conv")(x))
    x = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")(x)
    twice = nn.Dense(4, name="twice")
    x = jnp.tanh(twice(jnp.tanh(twice(x))))
    return nn.Dense(2, use_bias=False, name="last")(x).mean(axis=1)


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.embed = nnx.Embed(5, 2, rngs=rngs)
    self.conv = nnx.Conv(2, 4, (3,), rngs=rngs)
    self.norm = nnx.LayerNorm(4, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
    self.twice = nnx.Linear(4, 4, rngs=rngs)
    self.last = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

  def __call__(self, ids):
    x = self.norm(jnp.tanh(self.conv(self.embed(ids))))
    x = jnp.tanh(self.twice(jnp.tanh(self.twice(x))))
    return self.last(x).mean(axis=1)


class Equinox(eqx.Module):
  embed: eqx.nn.Embedding
  conv: eqx.nn.Conv1d
  norm: eqx.nn.LayerNorm
  twice: eqx.nn.Linear
  last: eqx.nn.Linear

  def __init__(self, key):
    self.embed = eqx.nn.Embedding(5, 2, key=key)
    self.conv = eqx.nn.Conv1d(2, 4, 3, padding=1, key=key)
    self.norm = eqx.nn.LayerNorm(4, eps=1e-5)
    self.twice = eqx.nn.Linear(4, 4, key=key)
    self.last = eqx.nn.Linear(4, 2, use_bias=False, key=key)

  def __call__(self, ids):
    x = jax.vmap(self.embed)(ids)
    x = jax.vmap(self.norm)(jnp.tanh(self.conv(x.T)).T)
    x = jnp.tanh(jax.vmap(self.twice)(jnp.tanh(jax.vmap(self.twice)(x))))
    return jax.vmap(self.last)(x).mean(axis=0)


def linen_model():
  return Linen(), Linen().init(jax.random.key(0), IDS)["params"]


def linen_variables():
  return Linen(), Linen().init(jax.random.key(0), IDS)


def nnx_model():
  model = Nnx(nnx.Rngs(0))
  return model, nnx.state(model, nnx.Param)


def equinox_model():
  model = Equinox(jax.random.key(0))
  return model, eqx.filter(model, eqx.is_inexact_array)


def haiku_model():
  def forward(ids):
    x = hk.Embed(5, 2, name="embed")(ids)
    x = jnp.tanh(hk.Conv1D(4, 3, name="conv")(x))
    x = hk.LayerNorm(-1, True, True, name="norm")(x)
    twice = hk.Linear(4, name="twice")
    x = jnp.tanh(twice(jnp.tanh(twice(x))))
    return hk.Linear(2, with_bias=False, name="last")(x).mean(axis=1)

  network = hk.transform(forward)
  return network, network.init(jax.random.key(0), IDS)


MODELS = [haiku_model, linen_model, linen_variables, nnx_model, equinox_model]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def with_numbers(params):
  """The parameters with those of `LAYERS`, in the library's own tree."""
  layers = as_layers(params)
  prefix = "params/" if any(name.startswith("params/") for name in layers.arrays) else ""
  numbers = {
    prefix + name: {k: jnp.asarray(a) for k, a in arrays.items()} for name, arrays in LAYERS.items()
  }
  return prefix, layers.restore(numbers)


@both_kinds
@every_model
def test_model_has_what_the_plain_function_has(make, sharing):
  model, params = make()
  prefix, params = with_numbers(params)
  options = {"curvature": "gauss-newton", "sharing": sharing}
  loss = optim.SoftmaxCrossEntropy()

  def evaluated(network, params):
    evaluate = optim.value_grad_and_factors(network, loss, **options)
    return quick_jit(lambda p, k: evaluate(p, IDS, LABELS, key=k)[:4])(params, jax.random.key(1))

  expected = evaluated(plain, LAYERS)
  found = evaluated(model, params)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-7)
  gradients = as_layers(found[2]).arrays
  assert set(gradients) == {prefix + name for name in LAYERS}
  for name in LAYERS:
    for key, array in expected[2][name].items():
      np.testing.assert_allclose(gradients[prefix + name][key], array, rtol=1e-4, atol=1e-6)
    for side, factor in expected[3].layers[name].items():
      own = found[3].layers[prefix + name][side]
      np.testing.assert_allclose(own, factor, rtol=1e-4, atol=1e-6, err_msg=f"{name} {side}")


@every_model
def test_optimiser_trains_it(make):
  model, params = make()
  _, params = with_numbers(params)
  evaluate = optim.value_grad_and_factors(model, optim.SoftmaxCrossEntropy())
  optimizer = tatnet.kfac(1e-1, damping=1e-1, burn_in=2, weight_decay=1e-4)

  def step(carry, key):
    params, state = carry
    result = evaluate(params, IDS, LABELS, key=key)
    updates, state = optimizer.update(result.gradients, state, params, factors=result.factors)
    return (optax.apply_updates(params, updates), state), result.loss

  @quick_jit
  def train(params, state):
    return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(0), 20))[1]

  losses = train(params, optimizer.init(params))
  assert losses[-1] < losses[0] / 2


@every_model
def test_steps_that_are_found_are_those_of_the_plain_function(make):
  optimizer = tatnet.adaptive_kfac(burn_in=1, inverse_every=1, adapt_every=1, weight_decay=1e-2)

  def trained(network, params):
    evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy())

    def step(carry, key):
      params, state = carry
      result = evaluate(params, IDS, LABELS, key=key)
      updates, state = optimizer.update(
        result.gradients, state, params, factors=result.factors, model=result.model
      )
      return (optax.apply_updates(params, updates), state), state.learning_rate

    keys = jax.random.split(jax.random.key(0), 4)
    (params, _), rates = quick_jit(lambda c: jax.lax.scan(step, c, keys))(
      (params, optimizer.init(params))
    )
    return as_layers(params).arrays, rates

  model, params = make()
  prefix, params = with_numbers(params)
  expected, expected_rates = trained(plain, jax.tree.map(jnp.asarray, LAYERS))
  found, rates = trained(model, params)
  np.testing.assert_allclose(rates, expected_rates, rtol=1e-3)
  assert rates[1:].all()
  for name, arrays in expected.items():
    for key, array in arrays.items():
      np.testing.assert_allclose(found[prefix + name][key], array, rtol=1e-3, atol=1e-4)


class Refused(nn.Module):
  def setup(self):
    self.embed = nn.Embed(5, 4)
    self.grouped = nn.Conv(4, (3,), feature_group_count=2)
    self.transposed = nn.ConvTranspose(4, (3,))
    self.dense = nn.Dense(4)

  def __call__(self, ids):
    x = self.transposed(self.grouped(self.embed(ids)))
    return self.embed.attend(self.dense(x)).mean(axis=1)


def test_layers_of_linen_that_are_not_covered_are_named():
  model = Refused()
  params = model.init(jax.random.key(0), IDS)["params"]
  evaluate = optim.value_grad_and_factors(model, optim.SoftmaxCrossEntropy())
  with pytest.raises(ValueError, match="does not cover") as error:
    evaluate(params, IDS, LABELS, key=jax.random.key(0))
  listed = [line.strip() for line in str(error.value).splitlines() if line.startswith("  ")]
  assert any("grouped/w  (the layer is a convolution of 2 groups)" in line for line in listed)
  assert any("embed/embeddings  (the layer has a table that is used elsewhere" in x for x in listed)
  assert any("transposed/w  (the layer does not use its taps)" in line for line in listed)
  assert not any(line.startswith("dense/") for line in listed)


def test_layers_of_equinox_that_are_not_covered_are_named():
  class Model(eqx.Module):
    grouped: eqx.nn.Conv1d
    gain: jax.Array
    last: eqx.nn.Linear

    def __call__(self, x):
      return self.last(self.grouped(x).mean(-1) * self.gain)

  key = jax.random.key(0)
  model = Model(
    eqx.nn.Conv1d(4, 4, 1, groups=2, key=key), jnp.ones(4), eqx.nn.Linear(4, 2, key=key)
  )
  params = eqx.filter(model, eqx.is_inexact_array)
  evaluate = optim.value_grad_and_factors(model, optim.SoftmaxCrossEntropy())
  with pytest.raises(ValueError, match=r"~/gain\n.*grouped/w  \(the layer is a convolution of 2"):
    evaluate(params, jnp.ones((BATCH, 4, 3)), LABELS, key=key)
  with pytest.raises(ValueError, match=r"does not cover these parameters:\n  ~/gain"):
    tatnet.kfac(0.1).init(params)
