"""Layers that K-FAC does not cover: one error that names all of them, or gradients as they are."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import quick_jit, random_factors, random_params

import tatnet
from tatnet import optim

X = np.random.default_rng(0).normal(size=(4, 6, 4)).astype(np.float32)
IDS = np.arange(24).reshape(4, 6) % 4


class Own(hk.Module):
  def __call__(self, x):
    return x @ hk.get_parameter("w", [x.shape[-1], 2], init=jnp.ones)


class Block(hk.Module):
  """Makes its layer anew in every call, which finds the same parameters."""

  def __call__(self, x):
    return hk.Linear(4)(x)


def twice(x, make=lambda: hk.Linear(4)):
  layer = make()
  return layer(layer(x))


def tied(ids):
  table = hk.Embed(4, 4)
  return table(ids) @ table.embeddings.T


def dilated_inputs(x):
  layer = hk.Conv1D(4, 3, padding=((1, 1),))
  layer.lhs_dilation = (2,)
  return layer(x)


def with_getter(getter, layer=lambda: hk.Linear(2)):
  def forward(x):
    with hk.custom_getter(getter):
      return layer()(x)

  return forward


def stacked(block, **options):
  return lambda x: hk.experimental.layer_stack(3, **options)(block)(x)


UNCOVERED = {
  # Their first axis, over which they run, is the batch.
  "unrolled recurrence over examples": (
    lambda x: hk.static_unroll(hk.LSTM(3), x, hk.LSTM(3).initial_state(6))[0],
    "lstm/linear/w  (the layer sees an array of shape (6, 7) that has examples in an order that"
    " cannot be followed)",
  ),
  "loop over examples": (
    lambda x: hk.dynamic_unroll(hk.VanillaRNN(3), x, jnp.zeros((6, 3)))[0],
    "vanilla_rnn/linear_1/w  (the layer sees an array of shape (6, 3) that has examples in an order"
    " that cannot be followed)",
  ),
  "groups": (
    lambda x: hk.Conv1D(4, 3, feature_group_count=2)(x),
    "conv1_d/w  (the layer is a convolution of 2 groups)",
  ),
  "mask": (
    lambda x: hk.Conv1D(4, 3, mask=np.ones((3, 4, 4)))(x),
    "conv1_d/w  (the layer is a convolution with a mask)",
  ),
  "channels first": (
    lambda x: hk.Conv1D(4, 3, data_format="NCW")(x),
    "conv1_d/w  (the layer has data_format='NCW'; channels must come last)",
  ),
  "dilated inputs": (
    dilated_inputs,
    "conv1_d/w  (the layer is a convolution with dilated inputs)",
  ),
  "no batch": (
    lambda x: hk.Conv2D(4, 3)(x),
    "conv2_d/w  (the layer is a convolution of inputs (4, 6, 4), which have no batch)",
  ),
  "by keyword": (
    lambda x: hk.Linear(2)(inputs=x),
    "linear/w  (the layer gets its input by keyword)",
  ),
  "changed weight": (
    with_getter(lambda get, w, context: 2 * get(w)),
    "linear/w  (the layer has parameters that a custom getter changes)",
  ),
  "changed before other getters": (
    with_getter(lambda get, w, context: get(w * 2)),
    "linear/b  (the layer has parameters that a custom getter changes)",
  ),
  "unknown module": (lambda x: Own()(x), "own/w  (not a layer that was called)"),
  "transposed convolution": (
    lambda x: hk.Conv1DTranspose(4, 3)(x),
    "conv1_d_transpose/w  (not a layer that was called)",
  ),
  "of no module": (lambda x: x * hk.get_parameter("gain", [], init=jnp.ones), "~/gain"),
  "weight normalisation": (
    lambda x: tatnet.nets.MLP(3, 1, 2, activation=jnp.tanh, normalization="weight")(x),
    "mlp/logits/g",
  ),
  "stack without bias and with another name": (
    stacked(lambda x: hk.Linear(4, with_bias=False)(x), name="tower"),
    "tower/linear/w  (its factors have the shapes {'inputs': (3, 4, 4), 'outputs': (3, 4, 4)}, not"
    " {'inputs': (12, 12), 'outputs': (4, 4)}: name a stack of layers so that its path contains"
    " 'layer_stack')",
  ),
}


def evaluated(forward, x=X, compiled=False, **options):
  network = hk.transform(forward)
  params = random_params(network, x)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError(), **options)
  y = jnp.zeros(jax.eval_shape(network.apply, params, None, x).shape)

  def run(params):
    return evaluate(params, x, y, key=jax.random.key(0))

  return params, quick_jit(run)(params) if compiled else jax.eval_shape(run, params)


@pytest.mark.parametrize("name", UNCOVERED)
def test_layer_is_refused_with_its_name_and_the_reason(name):
  forward, line = UNCOVERED[name]
  with pytest.raises(ValueError, match="K-FAC does not cover these parameters") as error:
    evaluated(forward)
  assert f"  {line}\n" in str(error.value)
  assert "pass uncovered='identity' here and to the optimiser" in str(error.value)


def test_table_of_embeddings_that_is_used_elsewhere_is_refused():
  with pytest.raises(
    ValueError, match=r"embed/embeddings .*has a table that is used elsewhere too"
  ):
    evaluated(tied, IDS)


def test_one_error_names_everything_and_nothing_else():
  def forward(x):
    x = hk.Conv1D(4, 3, feature_group_count=2, name="grouped")(hk.Linear(4, name="good")(x))
    x = jax.grad(lambda x: hk.Linear(4)(x).sum())(x)
    return Own(name="custom")(x) * hk.get_parameter("gain", [], init=jnp.ones)

  with pytest.raises(ValueError, match="does not cover") as error:
    evaluated(forward)
  listed = {line.split()[0] for line in str(error.value).splitlines() if line.startswith("  ")}
  assert listed == {"~/gain", "custom/w", "grouped/w", "grouped/b", "linear/w", "linear/b"}


COVERED = {
  "attention": lambda x: hk.MultiHeadAttention(2, 2, w_init=jnp.ones)(x, x, x),
  "one step of a recurrence": lambda x: hk.LSTM(3)(x[:, 0], hk.LSTM(3).initial_state(4))[0],
  "getter that changes nothing": with_getter(lambda get, w, context: get(w)),
  "getter that changes the precision": with_getter(
    lambda get, w, context: get(w).astype(jnp.bfloat16)
  ),
  "same names in two stacks": lambda x: stacked(Block(), name="a_layer_stack")(
    stacked(Block(), name="b_layer_stack")(x)
  ),
}


@pytest.mark.parametrize("name", COVERED)
def test_layer_is_covered(name):
  params, result = evaluated(COVERED[name])
  assert set(result.factors.layers) == set(params)


def test_gradients_of_what_is_not_covered_pass_as_they_are():
  def forward(x):
    x = hk.Linear(4, name="good")(x)
    x = x + jax.grad(lambda x: jnp.tanh(hk.Linear(4)(x)).sum())(x)
    return Own()(hk.Conv1D(4, 3, feature_group_count=2)(x)) * hk.get_parameter(
      "gain", [], init=jnp.ones
    )

  params, result = evaluated(forward, compiled=True, uncovered="identity")
  assert set(result.factors.layers) == {"good"}
  optimizer = optim.scale_by_kfac(0.1, burn_in=0, uncovered="identity")
  state = optimizer.init(params)
  updates, after = quick_jit(optimizer.update)(result.gradients, state, factors=result.factors)
  for name in params:
    same = jax.tree.map(np.array_equal, updates[name], result.gradients[name])
    assert set(same.values()) == {name != "good"}
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_outputs_behind_a_changed_normalisation_are_those_of_the_model():
  getter = with_getter(
    lambda get, value, context: get(value) + 1 if context.name != "w" else get(value),
    lambda: lambda x: hk.LayerNorm(-1, True, True)(hk.Linear(4, with_bias=False)(x)),
  )
  params, result = evaluated(getter, compiled=True, uncovered="identity")
  expected = hk.transform(getter).apply(params, None, X)
  np.testing.assert_allclose(result.outputs, expected, rtol=1e-5)
  assert set(result.factors.layers) == {"linear"}


def test_layers_of_a_plain_function_must_use_their_taps():
  def forward(params, taps, observer, x):
    x = observer.dense(x, params["tapped"]["w"], None, taps["tapped"])
    return x @ params["forgotten"]["w"]

  params = {"tapped": {"w": jnp.ones((4, 4))}, "forgotten": {"w": jnp.ones((4, 2))}}
  y, key = jnp.zeros((4, 6, 2)), jax.random.key(0)
  evaluate = optim.value_grad_and_factors(forward, optim.SquaredError())
  with pytest.raises(ValueError, match=r"forgotten/w .*does not use its taps"):
    evaluate(params, X, y, key=key)
  evaluate = optim.value_grad_and_factors(forward, optim.SquaredError(), uncovered="identity")
  found = jax.eval_shape(lambda p: evaluate(p, X, y, key=key), params)
  assert set(found.factors.layers) == {"tapped"}


def test_optimiser_names_what_it_does_not_cover():
  params = {
    "dense": {"w": jnp.ones((2, 2))},
    "own": {"gate": jnp.ones(2), "w": jnp.ones((2, 2))},
    "vector": {"w": jnp.ones(3)},
  }
  with pytest.raises(ValueError, match="does not cover") as error:
    optim.kfac(0.1).init(params)
  listed = [line.strip() for line in str(error.value).splitlines() if line.startswith("  ")]
  assert listed == ["own/gate", "own/w", "vector/w"]
  assert "Pass uncovered='identity'" in str(error.value)
  state = optim.kfac(0.1, uncovered="identity").init(params)
  assert set(state[0].curvature) == {"dense"}


def test_factors_of_layers_that_other_optimisers_have_are_left_aside():
  import optax

  params = {"dense": {"w": jnp.ones((2, 2))}, "own": {"gate": jnp.ones(2)}}
  labels = {"dense": {"w": "kfac"}, "own": {"gate": "sgd"}}
  optimizer = optax.partition(
    {"kfac": optim.scale_by_kfac(burn_in=0), "sgd": optax.sgd(1.0)}, labels
  )
  factors = random_factors({"dense": params["dense"]}, np.random.default_rng(0))
  updates, _ = optimizer.update(params, optimizer.init(params), params, factors=factors)
  np.testing.assert_array_equal(updates["own"]["gate"], -params["own"]["gate"])
