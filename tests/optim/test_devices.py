"""Several devices do what one does (a subprocess with 8 devices on the CPU)."""

import os
import subprocess
import sys

from simulated_devices import xla_flags

PROGRAM = """
import haiku as hk, jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tatnet import optim
from tatnet.optim.inverses import Damped, spread_inverses
from tatnet.optim.symmetric import inverse_of

assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

def forward(x):
  x = hk.LayerNorm(-1, True, True)(hk.Conv1D(3, 3)(x)).mean(axis=1)
  return hk.Linear(4)(hk.experimental.layer_stack(2)(lambda x: jnp.tanh(hk.Linear(3)(x)))(x))

network = hk.transform(forward)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 5, 2)).astype(np.float32), rng.integers(0, 4, 16)
shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), x))
params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy(), curvature="empirical")

def run(params, x, y, place=None, mesh=None):
  optimizer = optim.kfac(1e-2, damping=1e-2, burn_in=0, inverse_every=1, mesh=mesh)

  @jax.jit
  def step(params, state):
    result = evaluate(params, x, y)
    updates, state = optimizer.update(result.gradients, state, params, factors=result.factors)
    return optax.apply_updates(params, updates), state, result

  state = started = jax.jit(optimizer.init, out_shardings=place)(params)
  for _ in range(2):
    params, state, result = step(params, state)
  before, after = (jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (started, state))
  assert place is None or before == after
  return params, state, result

def assert_same(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
  for leaf in jax.tree.leaves((found[:2], found[2].factors, found[2].gradients)):
    assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 8, leaf.sharding

single = run(params, x, y)
on_all = jax.device_put(params, everywhere)
data = jax.device_put(x, split), jax.device_put(y, split)
assert_same(run(on_all, *data, everywhere), single)
print("data parallel")

assert_same(run(on_all, *data, everywhere, mesh), single)
print("inverses spread over the devices")

def run_by_itself(params, x, y, mesh=None):
  optimizer = optim.adaptive_kfac(burn_in=1, inverse_every=1, adapt_every=1, mesh=mesh)

  @jax.jit
  def step(params, state):
    result = evaluate(params, x, y)
    updates, state = optimizer.update(
      result.gradients, state, params, factors=result.factors, model=result.model
    )
    return optax.apply_updates(params, updates), state

  state = jax.jit(optimizer.init)(params)
  for _ in range(3):
    params, state = step(params, state)
  numbers = [state.learning_rate, state.momentum, state.damping, state.reduction_ratio]
  assert state.learning_rate > 0 and not state.rejected, numbers
  return params, numbers

jax.tree.map(
  lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-4),
  run_by_itself(on_all, *data, mesh), run_by_itself(params, x, y),
)
print("steps that are found")

square = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Auto))
rows = rng.normal(size=(11, 20, 4)).astype(np.float32)
moments, damping = np.swapaxes(rows, 1, 2) @ rows / 20, np.linspace(0.1, 1, 11, dtype=np.float32)
request = Damped(np.pad(moments, [(0, 0), (0, 0), (0, 1)]), damping)
found = jax.jit(lambda request: spread_inverses({"l": {"inputs": request}}, square))(request)
assert found["l"].is_finite
inverses = inverse_of(found["l"].packed["inputs"])
expected = np.linalg.inv(moments + damping[:, None, None] * np.eye(4))
np.testing.assert_allclose(inverses, expected, rtol=1e-3, atol=1e-4)
print("more matrices than devices")
"""


def test_eight_devices_do_what_one_does():
  flags = f"{xla_flags(devices=8)} --xla_backend_optimization_level=0"
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.splitlines() == [
    "data parallel",
    "inverses spread over the devices",
    "steps that are found",
    "more matrices than devices",
  ]
