"""Stacked layers are as many single layers: factors, inverses and updates are the same."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from kfac_references import quick_jit, random_params

import tatnet
from tatnet import optim

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 6)
COUNT = 3


def block(x):
  x = jnp.tanh(hk.Linear(5, name="dense")(x))
  return hk.LayerNorm(-1, True, True, name="norm")(x)


def stacked(x, block=block):
  return hk.Linear(3, name="last")(hk.experimental.layer_stack(COUNT)(block)(x))


class Numbered(hk.Module):
  def __call__(self, x):
    return block(x)


def unrolled(x):
  for i in range(COUNT):
    x = Numbered(name=f"block_{i}")(x)
  return hk.Linear(3, name="last")(x)


def three_steps(network, params):
  """State and updates of K-FAC after three batches."""
  evaluate = optim.value_grad_and_factors(
    network, optim.SoftmaxCrossEntropy(), curvature="gauss-newton"
  )
  optimizer = optim.scale_by_kfac(
    1e-2, inverse_every=2, norm_constraint=1e-2, burn_in=1, learning_rate=0.1
  )

  def step(state, key):
    result = evaluate(params, X, Y, key=key)
    updates, state = optimizer.update(result.gradients, state, params, factors=result.factors)
    return state, updates

  def steps(state):
    return jax.lax.scan(step, state, jax.random.split(jax.random.key(0), 3))

  state, updates = quick_jit(steps)(optimizer.init(params))
  return optim.curvature_by_layer(state, params), jax.tree.map(lambda u: u[-1], updates)


def unstacked(tree, prefix, name, i):
  """Arrays of one layer of a stack."""
  return jax.tree.map(lambda leaf: leaf[i], tree[f"{prefix}/{name}"])


def test_layer_stack_has_the_curvature_and_updates_of_its_layers():
  network = hk.transform(stacked)
  params = random_params(network, X)
  prefix = "__layer_stack_no_per_layer"
  single = {"last": params["last"]}
  for i in range(COUNT):
    for layer in ("dense", "norm"):
      single[f"block_{i}/{layer}"] = unstacked(params, prefix, layer, i)
  ours = three_steps(network, params)
  theirs = three_steps(hk.transform(unrolled), single)
  for mine, their in zip(ours, theirs, strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
      mine["last"],
      their["last"],
    )
    for i in range(COUNT):
      for layer in ("dense", "norm"):
        jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
          unstacked(mine, prefix, layer, i),
          their[f"block_{i}/{layer}"],
        )


def test_rematerialised_blocks_have_the_curvature_and_updates_of_others():
  plain = hk.transform(stacked)
  remat = hk.transform(lambda x: stacked(x, block=hk.remat(block)))
  params = random_params(plain, X)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
    three_steps(plain, params),
    three_steps(remat, params),
  )


def test_stacked_mlp_has_the_updates_of_the_unrolled_one():
  def network(is_stacked):
    return hk.transform(
      lambda x: tatnet.nets.MLP(5, 4, 3, activation=jnp.tanh, stacked=is_stacked)(x)
    )

  params = random_params(network(True), X)
  stack = "mlp/stage_1_layer_stack/block/layer_1"
  assert params[stack]["w"].shape == (COUNT, 5, 5)
  single = {name: arrays for name, arrays in params.items() if name != stack}
  names = sorted(set(random_params(network(False), X)) - set(single))
  for i, name in enumerate(names):
    single[name] = jax.tree.map(lambda leaf, i=i: leaf[i], params[stack])
  (_, ours), (_, theirs) = three_steps(network(True), params), three_steps(network(False), single)
  for i, name in enumerate(names):
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-5),
      ours[stack],
      theirs[name],
    )


def test_convolutions_without_bias_in_a_stack_are_told_from_3d_convolutions_by_their_path():
  def forward(x):
    def block(x):
      return hk.Conv2D(2, 3, with_bias=False)(x)

    return hk.experimental.layer_stack(COUNT)(block)(x)

  x = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
  network = hk.transform(forward)
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError(), curvature="empirical")
  found = quick_jit(evaluate)(random_params(network, x), x, x).factors.layers
  (factors,) = found.values()
  assert jax.tree.map(jnp.shape, factors) == {"inputs": (3, 18, 18), "outputs": (3, 2, 2)}


def test_single_layer_in_a_module_called_layer_stack_is_no_stack():
  network = hk.transform(
    lambda x: hk.Linear(3, with_bias=False)(hk.Linear(4, name="layer_stack_head")(x))
  )
  evaluate = optim.value_grad_and_factors(network, optim.SquaredError(), curvature="empirical")
  found = quick_jit(evaluate)(random_params(network, X), X, jnp.zeros((6, 3))).factors.layers
  assert jax.tree.map(jnp.shape, found["layer_stack_head"]) == {"inputs": (6, 6), "outputs": (4, 4)}
