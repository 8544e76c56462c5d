"""Nothing hangs: jaxlib 0.10 may on two cores, where a program inverts two stacks at once.

The updates run in a process of their own, since a hanging one cannot be interrupted, and
compiled as their users have them.
"""

import os
import pathlib
import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from kfac_references import random_factors, random_like
from tatnet import optim

rng = np.random.default_rng(0)
shapes = {
  "wide_layer_stack": {"w": (4, 32, 32)},
  "narrow_layer_stack": {"w": (3, 20, 20)},
  "last": {"w": (32, 10), "b": (10,)},
}
is_shape = lambda leaf: isinstance(leaf, tuple)
params = jax.tree.map(lambda s: jnp.zeros(s, jnp.float32), shapes, is_leaf=is_shape)
gradients = random_like(params, rng)
layers = {
  name: random_factors({name: arrays}, rng, batch=60).layers[name]
  if "stack" not in name
  else {side: jnp.asarray(rows @ rows.swapaxes(1, 2) / 60, jnp.float32)
        for side in ("inputs", "outputs")
        for rows in [rng.normal(size=(*arrays["w"].shape[:2], 60))]}
  for name, arrays in params.items()
}
factors = optim.Factors(jnp.ones(()), layers)
optimizer = optim.scale_by_kfac(1e-2, inverse_every=1, burn_in=0)

def run(update, state, steps):
  update = jax.jit(update)
  for _ in range(steps):
    updates, state = update(state)
  return all(np.isfinite(u).all() for u in jax.tree.leaves(updates))

state = optimizer.init(params)
print("stacks", run(lambda s: optimizer.update(gradients, s, factors=factors), state, 200))
members = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
ensemble = jax.vmap(lambda s: optimizer.update(gradients, s, factors=factors))
print("ensemble", run(ensemble, members, 30))
"""


def test_updates_that_invert_many_matrices_end():
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    cwd=pathlib.Path(__file__).parents[1] / "helpers",
    env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.stdout.splitlines() == ["stacks True", "ensemble True"], done.stderr[-3000:]
