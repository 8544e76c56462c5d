"""Layers that run several times on an example: every use is one, as a location is."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import inputs_factor, outputs_factor, quick_jit, random_params

from tatnet import optim

BATCH, WIDTH, TURNS = 5, 3, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, WIDTH))
SEQUENCE = RNG.normal(size=(BATCH, TURNS, WIDTH))
TARGETS = RNG.normal(size=(BATCH, WIDTH))
both_kinds = pytest.mark.parametrize("sharing", ["reduce", "expand"])


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def by_hand(params, x, sharing, turns=TURNS, inject=True):
  """Factors of ``h = tanh(h w + b) + x``: one shift for every turn gives its own gradient."""
  w, b = params["w"], params["b"]

  def run(shifts):
    h, seen = x, []
    for shift in shifts:
      seen.append(h)
      h = jnp.tanh(h @ w + b + shift) + (x if inject else 0.0)
    return h, jnp.stack(seen, 1)

  def loss(shifts):
    h, seen = run(shifts)
    return jnp.square(h - TARGETS).sum() / 2, seen

  gradients, seen = jax.grad(loss, has_aux=True)(jnp.zeros((turns, BATCH, WIDTH)))
  gradients = np.moveaxis(np.asarray(gradients), 0, 1)
  return {
    "inputs": inputs_factor(np.asarray(seen), sharing),
    "outputs": outputs_factor(gradients, sharing),
  }


def turn(layer, x, h):
  return jnp.tanh(layer(h)) + x


def unrolled(x):
  layer, h = hk.Linear(WIDTH, name="cell"), x
  for _ in range(TURNS):
    h = turn(layer, x, h)
  return h


def made_anew(x):
  class Block(hk.Module):
    def __call__(self, h):
      return turn(hk.Linear(WIDTH, name="cell"), x, h)

  block, h = Block(name="block"), x
  for _ in range(TURNS):
    h = block(h)
  return h


def looped(x):
  layer = hk.Linear(WIDTH, name="cell")
  return hk.fori_loop(0, TURNS, lambda i, h: turn(layer, x, h), x)


def while_looped(x):
  layer = hk.Linear(WIDTH, name="cell")
  if hk.running_init():
    return turn(layer, x, x)
  return hk.scan(lambda h, _: (turn(layer, x, h), None), x, None, length=TURNS)[0]


def rematerialised(x):
  layer, h = hk.Linear(WIDTH, name="cell"), x
  for _ in range(TURNS):
    h = hk.remat(functools.partial(turn, layer))(x, h)
  return h


def plain(params, taps, observer, x):
  p, h = params["cell"], x
  for _ in range(TURNS):
    h = jnp.tanh(observer.dense(h, p["w"], p["b"], taps["cell"])) + x
  return h


def plain_loop(params, taps, observer, x):
  def body(i, h):
    p = params["cell"]
    return jnp.tanh(observer.dense(h, p["w"], p["b"], taps["cell"])) + x

  return jax.lax.fori_loop(0, TURNS, body, x)


def plain_checkpointed_scan(params, taps, observer, x):
  @jax.checkpoint
  def body(h, _):
    p = params["cell"]
    return jnp.tanh(observer.dense(h, p["w"], p["b"], taps["cell"])) + x, None

  return jax.lax.scan(body, x, None, length=TURNS)[0]


def factors(model, params, inputs, sharing="reduce", targets=TARGETS, **options):
  evaluate = optim.value_grad_and_factors(
    model, optim.SquaredError(), curvature="empirical", sharing=sharing, **options
  )
  return quick_jit(evaluate)(params, inputs, targets).factors.layers


def assert_factors(found, expected, atol=1e-12):
  for side, factor in expected.items():
    np.testing.assert_allclose(found[side], factor, atol=atol, err_msg=side)


@both_kinds
@pytest.mark.parametrize(
  "forward", [unrolled, made_anew, looped, while_looped, rematerialised], ids=lambda f: f.__name__
)
def test_layer_of_a_haiku_model_that_runs_many_times(forward, sharing):
  network = hk.transform(forward)
  params = random_params(network, X)
  ((name, own),) = params.items()
  assert_factors(factors(network, params, X, sharing)[name], by_hand(own, X, sharing))


@both_kinds
@pytest.mark.parametrize(
  "forward", [plain, plain_loop, plain_checkpointed_scan], ids=lambda f: f.__name__
)
def test_layer_of_a_plain_function_that_runs_many_times(forward, sharing):
  params = {"cell": {"w": jnp.asarray(RNG.normal(size=(3, 3)) / 2), "b": jnp.full(3, 0.3)}}
  found = factors(forward, params, X, sharing)["cell"]
  assert_factors(found, by_hand(params["cell"], X, sharing))


@both_kinds
def test_recurrence_over_time_major_sequences(sharing):
  def forward(x):
    core = hk.VanillaRNN(WIDTH)
    state = core.initial_state(len(x))
    return hk.dynamic_unroll(core, jnp.swapaxes(x, 0, 1), state)[0][-1]

  network = hk.transform(forward)
  params = random_params(network, SEQUENCE)
  cells = {name: (p["w"], p["b"]) for name, p in params.items()}

  def run(shifts):
    (first, (w, b)), (second, (v, c)) = cells.items()
    h, seen = jnp.zeros((BATCH, WIDTH)), {first: [], second: []}
    for t in range(TURNS):
      seen[first].append(SEQUENCE[:, t])
      seen[second].append(h)
      h = jax.nn.relu(SEQUENCE[:, t] @ w + b + shifts[first][t] + h @ v + c + shifts[second][t])
    return jnp.square(h - TARGETS).sum() / 2, {n: jnp.stack(s, 1) for n, s in seen.items()}

  shifts = {name: jnp.zeros((TURNS, BATCH, WIDTH)) for name in cells}
  gradients, seen = jax.grad(run, has_aux=True)(shifts)
  found = factors(network, params, SEQUENCE, sharing)
  for name in cells:
    own = np.moveaxis(np.asarray(gradients[name]), 0, 1)
    expected = {
      "inputs": inputs_factor(np.asarray(seen[name]), sharing),
      "outputs": outputs_factor(own, sharing),
    }
    assert_factors(found[name], expected)


def own_gradients(loss_of_one, parameter):
  """Gradients of every example by one parameter, by JAX."""
  return np.asarray(jax.vmap(jax.grad(loss_of_one), (None, 0))(parameter, jnp.arange(BATCH)))


def test_normalisation_that_runs_twice_has_the_examples_own_gradients():
  def forward(x):
    norm = hk.LayerNorm(-1, True, True, name="norm")
    return norm(jnp.tanh(norm(x)) + x)

  network = hk.transform(forward)
  params = random_params(network, X)

  def loss(own, i):
    y = network.apply({"norm": own}, None, jnp.asarray(X)[i][None])[0]
    return jnp.square(y - jnp.asarray(TARGETS)[i]).sum() / 2

  found = factors(network, params, X)["norm"]
  own = jax.vmap(jax.grad(loss), (None, 0))(params["norm"], jnp.arange(BATCH))
  for name, gradients in own.items():
    np.testing.assert_allclose(found[name], np.square(gradients).mean(0), atol=1e-12)


def test_table_that_is_looked_up_twice():
  ids = RNG.integers(0, 4, (BATCH, 2))

  def forward(ids):
    table = hk.Embed(4, WIDTH, name="table")
    return jnp.tanh(table(ids[:, 0])) * table(ids[:, 1])

  network = hk.transform(forward)
  params = random_params(network, ids)
  table = params["table"]["embeddings"]

  def loss(rows):
    return jnp.square(jnp.tanh(rows[:, 0]) * rows[:, 1] - TARGETS).sum() / 2

  gradients = np.asarray(jax.grad(loss)(table[ids]))
  found = factors(network, params, ids)["table"]
  counts = np.bincount(ids.reshape(-1), minlength=4) / BATCH
  expected = {"inputs": counts, "outputs": outputs_factor(gradients, "expand")}
  assert_factors(found, expected, atol=1e-7)  # the table is of 32 bits


@both_kinds
def test_convolution_that_runs_twice(sharing):
  x = RNG.normal(size=(BATCH, 4, 2))

  def forward(x):
    layer = hk.Conv1D(2, 3, name="conv")
    return layer(jnp.tanh(layer(x)))

  network = hk.transform(forward)
  params = random_params(network, x)
  w, b = params["conv"]["w"], params["conv"]["b"]

  def patches(x):
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, i : i + 4] for i in range(3)], -1)

  def loss(shifts):
    h, seen = x, []
    for i, shift in enumerate(shifts):
      seen.append(patches(h))
      h = seen[-1] @ w.reshape(6, 2) + b + shift
      h = h if i else jnp.tanh(h)
    return jnp.square(h).sum() / 2, jnp.concatenate(seen, 1)

  gradients, seen = jax.grad(loss, has_aux=True)(jnp.zeros((2, BATCH, 4, 2)))
  gradients = np.concatenate(np.asarray(gradients), axis=1)
  found = factors(network, params, x, sharing, targets=np.zeros((BATCH, 4, 2)))["conv"]
  assert_factors(
    found,
    {
      "inputs": inputs_factor(np.asarray(seen), sharing),
      "outputs": outputs_factor(gradients, sharing),
    },
  )


def test_reused_layers_of_a_stack_are_as_those_of_single_blocks():
  def block(x):
    layer = hk.Linear(WIDTH, name="cell")
    return jnp.tanh(layer(jnp.tanh(layer(x))))

  class Numbered(hk.Module):
    def __call__(self, x):
      return block(x)

  def separate(x):
    for i in range(2):
      x = Numbered(name=f"block_{i}")(x)
    return x

  stacked = hk.transform(hk.experimental.layer_stack(2)(block))
  params = random_params(stacked, X)
  ((name, own),) = params.items()
  single = {f"block_{i}/cell": jax.tree.map(lambda a, i=i: a[i], own) for i in range(2)}
  whole = factors(stacked, params, X)[name]
  for i, found in enumerate(factors(hk.transform(separate), single, X).values()):
    assert_factors({side: f[i] for side, f in whole.items()}, found)


def test_weight_that_is_used_without_its_tap_too_is_refused():
  def tied(params, taps, observer, x):
    w = params["cell"]["w"]
    return observer.dense(x, w, None, taps["cell"]) @ w.T

  with pytest.raises(ValueError, match=r"cell/w  \(the layer has a weight that is used elsewhere"):
    factors(tied, {"cell": {"w": jnp.ones((3, 3))}}, X)
