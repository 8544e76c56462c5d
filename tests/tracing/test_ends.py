"""Where a network begins and ends: preprocessing, masks, heads, losses, metrics, shared encoders."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

F32 = jnp.float32
ROWS = jax.ShapeDtypeStruct((4, 8), F32)
W = [jax.ShapeDtypeStruct((8, 8), F32)] * 4


def network(end):
  def forward(x, activation):
    for _ in range(3):
      x = activation(hk.Linear(8)(x))
    return end(x, hk.Linear(8)(x))

  return forward


ENDS = {
  "sigmoid": lambda h, y: jax.nn.sigmoid(y),
  "tanh": lambda h, y: jnp.tanh(y),
  "softmax": lambda h, y: jax.nn.softmax(y),
  "mean and spread": lambda h, y: (y[:, :4], jax.nn.softplus(y[:, 4:])),
  "clipped spread": lambda h, y: {"mean": y[:, :4], "log": jnp.clip(y[:, 4:], -5, 2)},
  "line": lambda h, y: 3 * y + 1,
  "dead units": lambda h, y: (y, jnp.mean(h == 0)),
  "variance": lambda h, y: (y, jnp.var(h)),
  "entropy": lambda h, y: (y, -jnp.sum(jax.nn.softmax(y) * jax.nn.log_softmax(y), -1)),
  "accuracy": lambda h, y: (y, jnp.mean(jnp.argmax(y, -1) == 0)),
  "log-sum-exp": lambda h, y: jnp.mean(jax.nn.logsumexp(y, -1)),
  "similarities": lambda h, y: (y, y @ y.T),
  "dueling": lambda h, y: hk.Linear(1)(h) + y - y.mean(-1, keepdims=True),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_follows_the_last_weights_is_no_layer(name):
  assert tatnet.trace(network(ENDS[name]), ROWS) == tatnet.chain(3)


def test_a_lone_function_is_the_layer_where_there_is_no_other():
  assert tatnet.trace(lambda x: jnp.tanh(hk.Linear(8)(x)), ROWS).num_nonlinear == 1


def test_the_user_says_which_output_counts():
  forward = network(lambda h, y: (y, hk.Linear(3)(jnp.tanh(y))))
  assert tatnet.trace(forward, ROWS).num_nonlinear == 4
  first = tatnet.trace(lambda x, activation: forward(x, activation)[0], ROWS)
  assert first == tatnet.chain(3)


def test_images_of_integers_enter_the_network():
  def forward(images, activation):
    x = activation(hk.Conv2D(8, 3)(images.astype(F32) / 255))
    return hk.Linear(3)(x.mean((1, 2)))

  assert tatnet.trace(forward, jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.uint8)) == tatnet.chain(1)


def test_what_is_done_to_an_input_is_preprocessing():
  mean, spread = np.arange(8.0), np.arange(1.0, 9.0)

  def forward(x, activation):
    x = tatnet.per_location_normalize((x - mean) / spread)
    return activation(hk.Linear(8)(jnp.concatenate([x, x**2], -1)))

  assert tatnet.trace(forward, ROWS) == tatnet.chain(1)


def test_encodings_of_the_input_are_said():
  def forward(x, activation):
    bands = jnp.concatenate([2.0**i * x for i in range(3)], -1)
    x = math.sqrt(2) * jnp.concatenate([jnp.sin(bands), jnp.cos(bands)], -1)
    return activation(hk.Linear(8)(x))

  with pytest.warns(tatnet.TopologyWarning, match="encoding of the raw input"):
    assert tatnet.trace(forward, ROWS) == tatnet.chain(1)


def test_masks_of_booleans():
  def forward(x, mask, activation):
    h = activation(hk.Linear(8)(x))
    h = (h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return hk.Linear(3)(jnp.where(mask[:, :1], h, 0))

  tokens, mask = jax.ShapeDtypeStruct((4, 5, 8), F32), jax.ShapeDtypeStruct((4, 5), bool)
  assert tatnet.trace(forward, tokens, mask) == tatnet.chain(1)


def test_one_encoder_for_two_views():
  def encode(w, x, activation):
    return activation(activation(x @ w[0]) @ w[1]) @ w[2]

  def views(w, a, b, activation):
    return encode(w, a, activation), encode(w, b, activation)

  assert tatnet.trace_apply(views, W, ROWS, ROWS) == tatnet.chain(2)


def test_their_difference_is_found():
  def siamese(w, a, b, activation):
    return activation((activation(a @ w[0]) @ w[1] - activation(b @ w[0]) @ w[1]) @ w[2])

  with pytest.raises(tatnet.TopologyError, match="end with the same weights"):
    tatnet.trace_apply(siamese, W, ROWS, ROWS)


def test_a_product_written_twice_is_one():
  def forward(w, x, activation):
    r = math.sqrt(2)
    both = jnp.concatenate([r * jnp.cos(x @ w[0]), r * jnp.sin(x @ w[0])], -1)
    return activation(both @ jnp.concatenate([w[1], w[2]])) @ w[3]

  assert tatnet.trace_apply(forward, W, ROWS).num_nonlinear == 3


def test_features_that_are_split_and_recombined():
  def forward(w, x, activation):
    a, b = jnp.split(x @ w[0], 2, -1)
    x = jnp.concatenate([activation(a) @ w[1][:4, :4], b], -1)
    return activation(x @ w[2]) @ w[3]

  half = tatnet.weighted_sum((0.5**0.5, tatnet.nonlinear()), (0.5**0.5, tatnet.identity()))
  assert tatnet.trace_apply(forward, W, ROWS) == half >> tatnet.nonlinear()


@pytest.mark.parametrize("kind", ["gain", "slope", "blend"])
def test_initial_values_that_shapes_do_not_tell_are_asked_for(kind):
  def forward(params, x, activation):
    w, p = params
    x = x @ w[0]
    y = activation(x) @ w[1]
    if kind == "gain":
      return activation(x + p * y) @ w[2]
    if kind == "slope":
      return jnp.where(x > 0, x, p * x) @ w[2]
    return activation(p * y + (1 - p) * x) @ w[2]

  with pytest.raises(tatnet.TopologyError) as caught:
    tatnet.trace_apply(forward, (W, jax.ShapeDtypeStruct((), F32)), ROWS)
  assert {f.kind for f in caught.value.findings} == {"parameter without a known initial value"}
  tatnet.trace_apply(forward, (W, jnp.zeros(())), ROWS)


PATHS = {
  "where": lambda y, u: jnp.where(u < 0.9, y / 0.9, 0),
  "floor": lambda y, u: y / 0.9 * jnp.floor(0.9 + u),
  "above": lambda y, u: jnp.where(u > 0.1, y / 0.9, 0),
  "mask": lambda y, u: y * ((u < 0.9) / 0.9),
  "cond": lambda y, u: jax.lax.cond(u[0, 0] < 0.9, lambda z: z / 0.9, jnp.zeros_like, y),
}


@pytest.mark.parametrize("name", PATHS)
def test_drop_path_in_every_spelling(name):
  def forward(x, activation):
    x = hk.Linear(8)(x)
    u = jax.random.uniform(hk.next_rng_key(), (x.shape[0], 1))
    return 0.6 * x + 0.8 * PATHS[name](hk.Linear(8)(activation(x)), u)

  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  with pytest.warns(tatnet.TopologyWarning, match=r"drop path(.|\n)*probability 0\.9"):
    assert tatnet.trace(forward, ROWS) == block


def test_keyword_arguments_of_pure_functions():
  def apply(w, x, *, act):
    return act(x @ w[0]) @ w[1]

  assert tatnet.trace_apply(apply, W, ROWS, act=tatnet.placeholder) == tatnet.chain(1)


def test_arrays_on_a_mesh_of_explicit_axes():
  mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
  spec = jax.sharding.PartitionSpec

  def put(*axes):
    return jax.device_put(jnp.ones((8, 8)), jax.sharding.NamedSharding(mesh, spec(*axes)))

  def apply(w, x):
    return jax.lax.psum(tatnet.placeholder(x @ w[0]) @ w[1], "d")

  model = jax.shard_map(
    apply, mesh=mesh, in_specs=([spec(None, "d"), spec("d", None)], spec()), out_specs=spec()
  )
  weights = [put(None, "d"), put("d", None)]
  assert tatnet.trace_apply(model, weights, put()) == tatnet.chain(1)
