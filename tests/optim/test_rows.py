"""Examples that do not stand on a layer's leading axis are found, or the layer is refused."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import inputs_factor, outputs_factor, quick_jit

from tatnet import optim
from tatnet.optim.rows import Rows

BATCH, TIME, WIDTH = 4, 4, 3  # as many examples as times, so that no shape tells them apart
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, TIME, WIDTH))
W, B = RNG.normal(size=(WIDTH, 2)), RNG.normal(size=2)
PARAMS = {"enc": {"w": W, "b": B}}
TARGETS = RNG.normal(size=(BATCH, 2 * TIME))
both_kinds = pytest.mark.parametrize("sharing", ["reduce", "expand"])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def encode(x):
  return hk.Linear(2, name="enc")(x)


def batch_first(x):
  return encode(x)


def flattened(x):
  return encode(x.reshape(-1, WIDTH)).reshape(BATCH, TIME, 2)


def batch_apply(x):
  return hk.BatchApply(encode)(x)


def time_first(x):
  return encode(x.swapaxes(0, 1)).swapaxes(0, 1)


def time_first_flattened(x):
  y = encode(x.swapaxes(0, 1).reshape(-1, WIDTH))
  return y.reshape(TIME, BATCH, 2).swapaxes(0, 1)


def views(x):
  y = encode(jnp.concatenate([x[:, i] for i in range(TIME)]))
  return jnp.stack(jnp.split(y, TIME), axis=1)


def pairs_of_views(x):
  y = encode(jnp.concatenate([x[:, :2], x[:, 2:]]))
  return jnp.concatenate([y[:BATCH], y[BATCH:]], axis=1)


def one_by_one(x):
  layer = hk.Linear(2, name="enc")
  return jnp.stack([layer(x[:, i]) for i in range(TIME)], axis=1)


def scanned(x):
  layer = hk.Linear(2, name="enc")
  _, y = hk.scan(lambda c, x: (c, layer(x)), 0.0, x.swapaxes(0, 1))
  return y.swapaxes(0, 1)


def over_examples(x):
  return hk.vmap(encode, split_rng=False)(x)


def over_times(x):
  return hk.vmap(encode, in_axes=1, out_axes=1, split_rng=False)(x)


def over_both(x):
  return hk.vmap(hk.vmap(encode, split_rng=False), in_axes=1, out_axes=1, split_rng=False)(x)


def conditional(x):
  layer = hk.Linear(2, name="enc")
  if hk.running_init():
    return layer(x)
  return hk.cond(x.sum() > 1e9, lambda x: layer(x) * 2, lambda x: layer(x), x)


MODELS = [
  *(batch_first, flattened, batch_apply, time_first, time_first_flattened, views),
  *(pairs_of_views, one_by_one, scanned, over_examples, over_times, over_both, conditional),
]


def factors(forward, x, sharing="reduce", params=PARAMS, targets=TARGETS):
  network = hk.transform(lambda x: forward(x).reshape(BATCH, -1))
  evaluate = optim.value_grad_and_factors(
    network, optim.SquaredError(), curvature="empirical", sharing=sharing
  )
  return quick_jit(evaluate)(params, x, targets).factors.layers


@both_kinds
@pytest.mark.parametrize("forward", MODELS, ids=lambda f: f.__name__)
def test_examples_are_found_wherever_they_stand(forward, sharing):
  found = factors(forward, X, sharing)["enc"]
  gradients = X @ W + B - TARGETS.reshape(BATCH, TIME, 2)
  np.testing.assert_allclose(found["inputs"], inputs_factor(X, sharing), atol=1e-12)
  np.testing.assert_allclose(found["outputs"], outputs_factor(gradients, sharing), atol=1e-12)


def test_normalisation_of_time_first_sequences_has_the_examples_own_gradients():
  def forward(x):
    norm = hk.LayerNorm(-1, True, True, name="norm")
    return norm(x.swapaxes(0, 1)).swapaxes(0, 1)

  params = {"norm": {"scale": RNG.normal(size=3), "offset": np.ones(3)}}
  targets = RNG.normal(size=(BATCH, TIME * WIDTH))
  found = factors(forward, X, params=params, targets=targets)["norm"]
  normal = (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + 1e-5)
  errors = normal * params["norm"]["scale"] + 1 - targets.reshape(BATCH, TIME, WIDTH)
  np.testing.assert_allclose(found["offset"], np.square(errors.sum(1)).mean(0), rtol=1e-6)
  np.testing.assert_allclose(found["scale"], np.square((errors * normal).sum(1)).mean(0), rtol=1e-6)


REFUSED = {
  "positions": (
    lambda x: x[:, :, :2] + encode(jnp.eye(TIME)[:, :WIDTH]),
    "does not depend on the inputs",
  ),
  "sorted examples": (lambda x: encode(jnp.sort(x, axis=0)), "in an order that cannot be followed"),
  "reversed examples": (lambda x: encode(x[::-1])[::-1], "in an order that cannot be followed"),
  "a token among them": (
    lambda x: encode(jnp.concatenate([jnp.ones((1, TIME, WIDTH)), x]))[1:],
    "in an order that cannot be followed",
  ),
  "examples and times at once": (
    lambda x: encode(x + x.swapaxes(0, 1)),
    "in an order that cannot be followed",
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layer_whose_examples_cannot_be_told_apart_is_refused(name):
  forward, reason = REFUSED[name]
  with pytest.raises(ValueError, match=rf"enc/w  \(the layer sees an array of shape .* {reason}"):
    factors(forward, X)


def test_map_over_single_examples_is_refused():
  def forward(params, taps, observer, x):
    p = params["enc"]
    y = jax.lax.map(lambda x: observer.dense(x, p["w"], p["b"], taps["enc"]), x)
    return y.reshape(BATCH, -1)

  evaluate = optim.value_grad_and_factors(forward, optim.SquaredError(), curvature="empirical")
  with pytest.raises(ValueError, match="in an order that cannot be followed"):
    evaluate(PARAMS, X, TARGETS)


@pytest.mark.parametrize("rows", [Rows(0, 1, 2), Rows(0, 3, 1), Rows(1, 1, 1), Rows(1, 2, 3)])
def test_rows_by_example(rows):
  shape = [2, 2]
  shape[rows.axis] = rows.outer * BATCH * rows.inner
  x = np.arange(np.prod([*shape, WIDTH])).reshape(*shape, WIDTH)
  found = np.asarray(rows.by_example(jnp.asarray(x), BATCH))
  for b in range(BATCH):
    places = [
      (o * BATCH + b) * rows.inner + i for o in range(rows.outer) for i in range(rows.inner)
    ]
    own = np.take(x, places, rows.axis)
    assert sorted(found[b].reshape(-1)) == sorted(own.reshape(-1))
