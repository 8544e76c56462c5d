"""Explicit axes, which are JAX's default, and shard_map do what one device does."""

import os
import subprocess
import sys

from simulated_devices import xla_flags

PROGRAM = """
import haiku as hk, jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tatnet import optim

network = hk.without_apply_rng(hk.transform(
  lambda x: hk.Linear(3)(hk.LayerNorm(-1, True, True)(jnp.tanh(hk.Linear(5)(x)).mean(axis=1)))
))
rng = np.random.default_rng(0)
x, y = rng.normal(size=(16, 2, 4)).astype(np.float32), rng.integers(0, 3, 16)
params = network.init(jax.random.key(1), x)
evaluate = optim.value_grad_and_factors(network, optim.SoftmaxCrossEntropy(), curvature="empirical")

def compare(found, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)

def step(params, x, y, mesh=None):
  result = evaluate(params, x, y)
  optimizer = optim.kfac(1e-1, damping=1e-2, burn_in=0, mesh=mesh)
  updates, _ = optimizer.update(
    result.gradients, optimizer.init(params), params, factors=result.factors
  )
  return result.loss, result.gradients, result.factors.layers, updates

expected = jax.jit(step)(params, x, y)
explicit = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
xs, ys = (jax.device_put(a, NamedSharding(explicit, P("d"))) for a in (x, y))
placed = jax.device_put(params, NamedSharding(explicit, P()))
for mesh in (None, explicit):
  compare(jax.jit(lambda p, x, y, mesh=mesh: step(p, x, y, mesh))(placed, xs, ys), expected)

auto = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
for check in (True, False):
  for refresh in (True, "traced"):
    def local(params, x, y):
      flag = refresh if refresh is True else params["linear"]["b"].sum() < 1e9
      result = evaluate(params, x, y, refresh=flag)
      return jax.lax.pmean((result.loss, result.gradients, result.factors.layers), "d")
    mapped = jax.shard_map(
      local, mesh=auto, in_specs=(P(), P("d"), P("d")), out_specs=P(), check_vma=check
    )
    compare(jax.jit(mapped)(params, x, y), expected[:3])
print("as on one device")
"""


def test_explicit_axes_and_shard_map_are_as_one_device():
  environment = {**os.environ, "XLA_FLAGS": xla_flags(4)}
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.strip() == "as on one device"
