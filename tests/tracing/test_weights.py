"""What acts on a signal is computed from parameters: its size is followed, or it is named."""

import re

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

ROWS, COLUMNS = 512, 256


def traced(function, *shapes):
  """What is said of one layer whose weights are a function of parameters of these shapes."""

  def apply(params, x, activation):
    return activation(x @ function(*params))

  params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return tatnet.trace_apply(apply, params, jax.ShapeDtypeStruct((4, ROWS), jnp.float32))


def measured_q(function, *shapes):
  """Mean q of what Gaussian parameters of variance 1 / inputs make of inputs of q = 1."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((64, ROWS))
  x /= np.sqrt(np.mean(x**2, 1, keepdims=True))
  qs = []
  for _ in range(4):
    params = [rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]
    qs.append(np.mean((x @ np.asarray(function(*params), np.float64)) ** 2))
  return np.mean(qs)


W = (ROWS, COLUMNS)
CHANGED = {
  "a sum": (lambda a, b: a + b, W, W),
  "a mean": (lambda a, b: (a + b) / 2, W, W),
  "a mean of a stack": (lambda a, b: jnp.stack([a, b]).mean(0), W, W),
  "length 1": (lambda w: w / jnp.linalg.norm(w), W),
  "rows of length 1": (lambda w: w / jnp.linalg.norm(w, axis=1, keepdims=True), W),
  "columns of length 2": (lambda w: 2 * w / jnp.sqrt(jnp.sum(w**2, 0) + 1e-6), W),
  "twice a product": (lambda a, b: 2 * a @ b, (ROWS, 128), (128, COLUMNS)),
}
UNCHANGED = {
  "weights of a sum": (lambda a, b: 0.6 * a - 0.8 * b, W, W),
  "columns of length 1": (lambda w: w / jnp.linalg.norm(w, axis=0), W),
  "entries of size 1": (lambda w: w / jnp.std(w) / np.sqrt(ROWS), W),
  "a product": (lambda a, b: a @ b, (ROWS, 128), (128, COLUMNS)),
  "a correction of 0": (lambda w: w + jnp.zeros_like(w), W),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_size_that_changes_is_found(name):
  function, *shapes = CHANGED[name]
  with pytest.raises(tatnet.TopologyError) as raised:
    traced(function, *shapes)
  (finding,) = raised.value.findings
  q = float(re.search(r"q = (\S+)", finding.what).group(1))
  np.testing.assert_allclose(q, measured_q(function, *shapes), rtol=0.05)


@pytest.mark.parametrize("name", UNCHANGED)
def test_a_size_that_stays_is_found(name):
  function, *shapes = UNCHANGED[name]
  assert traced(function, *shapes) == tatnet.chain(1)
  np.testing.assert_allclose(measured_q(function, *shapes), 1, rtol=0.05)


@pytest.mark.parametrize(
  "function",
  [jnp.sign, jnp.abs, jnp.exp, jax.nn.softplus, jax.nn.softmax, jnp.square, lambda w: w @ w.T @ w],
)
def test_what_has_no_size_that_is_known_is_named(function):
  with pytest.warns(tatnet.TopologyWarning, match="function of 0"):
    assert traced(function, W) == tatnet.chain(1)


def test_dropped_weights_are_larger_by_what_is_kept():
  def forward(x, activation):
    w = hk.get_parameter("w", [16, 16], init=hk.initializers.RandomNormal())
    return activation(x @ hk.dropout(hk.next_rng_key(), 0.2, w))

  with pytest.raises(tatnet.TopologyError, match=r"q = 1\.25"):
    tatnet.trace(forward, jnp.ones([4, 16]))


def test_a_spectral_norm_is_named():
  def forward(x, activation):
    w = hk.get_parameter("w", [16, 16], init=hk.initializers.RandomNormal())
    return activation(x @ hk.SpectralNorm()(w))

  with pytest.warns(tatnet.TopologyWarning, match="function of ~/w"):
    tatnet.trace(forward, jnp.ones([4, 16]))


@pytest.mark.parametrize(
  "together", [lambda v, g, n: v * (g / n), lambda v, g, n: g * (v / n), lambda v, g, n: v / n * g]
)
def test_weight_normalisation_that_begins_with_the_weights_as_they_are(together):
  """Its gain starts at their lengths."""

  def forward(x, activation):
    for index in range(2):
      v = hk.get_parameter(f"v{index}", [16, 16], init=hk.initializers.RandomNormal())
      length = jnp.linalg.norm(v, axis=0)
      g = hk.get_parameter(f"g{index}", [16], init=lambda *_, length=length: length)
      x = activation(x @ together(v, g, length))
    return x

  assert tatnet.trace(forward, jnp.ones([4, 16])) == tatnet.chain(2)


@pytest.mark.parametrize("factor", [16.0, 1.0, 8.0])
def test_embeddings_may_be_multiplied_by_the_root_of_their_features(factor):
  """As they are where they start with variance 1 / features, which Flax's do."""

  class Net(nn.Module):
    @nn.compact
    def __call__(self, ids):
      x = factor * nn.Embed(8, 256)(ids)
      return nn.Dense(4)(tatnet.placeholder(nn.Dense(16)(x)))

  ids = jnp.zeros([4, 6], jnp.int32)
  params = jax.eval_shape(Net().init, jax.random.key(0), ids)
  if factor == 8:
    with pytest.raises(tatnet.TopologyError, match="q = 64"):
      tatnet.trace_apply(Net().apply, params, ids)
  else:
    assert tatnet.trace_apply(Net().apply, params, ids) == tatnet.chain(1)


class Branch(nn.Module):
  """A norm at the end of a branch or at its beginning."""

  at_end: bool

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(16)(x)
    y = x if self.at_end else nn.LayerNorm()(x)
    y = nn.Dense(16)(tatnet.placeholder(y))
    return nn.Dense(16)(0.6 * x + 0.8 * (nn.LayerNorm()(y) if self.at_end else y))


@pytest.mark.parametrize("at_end", [True, False])
def test_gains_given_by_their_shapes_are_named_and_printed(at_end):
  """Wherever they stand: at the end of a branch they often start at 0, elsewhere at 0.1."""
  x = jax.ShapeDtypeStruct((4, 16), jnp.float32)
  module = Branch(at_end)
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  with pytest.warns(tatnet.TopologyWarning, match="taken to start at 1"):
    topology = tatnet.trace_apply(module.apply, params, x)
  # The branch's own layer is before the gain at its end.
  assert ("gain taken as 1" in repr(topology)) is not at_end


def test_gains_given_as_arrays_are_read():
  x = jnp.ones([4, 16])
  module = Branch(False)
  params = module.init(jax.random.key(0), x)
  assert "gain taken" not in repr(tatnet.trace_apply(module.apply, params, x))
  gain = params["params"]["LayerNorm_0"]["scale"]
  params["params"]["LayerNorm_0"]["scale"] = 0.1 * gain
  with pytest.raises(tatnet.TopologyError, match=r"q = 0\.0099"):
    tatnet.trace_apply(module.apply, params, x)


def test_a_gain_of_weight_normalisation_given_by_its_shape_is_printed():
  module = nn.Sequential([nn.WeightNorm(nn.Dense(16)), tatnet.placeholder, nn.Dense(4)])
  x = jax.ShapeDtypeStruct((4, 16), jnp.float32)
  params = jax.eval_shape(module.init, jax.random.key(0), x)
  with pytest.warns(tatnet.TopologyWarning, match="taken to start at 1"):
    assert "gain taken as 1" in repr(tatnet.trace_apply(module.apply, params, x))


def test_inputs_of_length_1_have_a_small_q():
  def apply(w, x, activation):
    return activation(x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ w)

  def put_right(w, x, activation):
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return activation(jnp.sqrt(16.0) * (x @ w))

  arrays = jnp.ones([16, 16]), jnp.ones([4, 16])
  with pytest.raises(tatnet.TopologyError, match=r"q = 0\.0625"):
    tatnet.trace_apply(apply, *arrays)
  assert tatnet.trace_apply(put_right, *arrays) == tatnet.chain(1)


def test_an_average_of_the_input_is_named():
  def forward(x, activation):
    return activation(hk.Linear(16)(x.mean(1)))

  with pytest.warns(tatnet.TopologyWarning, match="averaged or summed over locations"):
    assert tatnet.trace(forward, jnp.ones([4, 6, 16])) == tatnet.chain(1)
