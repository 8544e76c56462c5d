"""Tracing computes nothing and touches no global state."""

import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp

import tatnet

PROGRAM = """
import resource
import haiku as hk, jax, jax.numpy as jnp, tatnet

def forward(x, activation):
  x = hk.Conv2D(256, 7, stride=2)(x)
  for _ in range(75):
    x = 0.6 * x + 0.8 * hk.Conv2D(256, 3)(activation(hk.Conv2D(256, 3)(activation(x))))
  return hk.Linear(1000)(activation(x).mean((1, 2)))

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
topology = tatnet.trace(forward, jax.ShapeDtypeStruct((256, 224, 224, 3), jnp.float32))
print(topology.num_nonlinear, peak() - before, sum(a.nbytes for a in jax.live_arrays()))
"""


def test_nothing_of_the_models_size_is_allocated():
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
  )
  layers, megabytes, live = result.stdout.split()
  assert layers == "151"
  # The weights alone would take 350 MB, one layer's activations 3 GB.
  assert float(megabytes) < 300
  assert int(live) < 1e5


def test_global_state_is_left_alone():
  def forward(x, activation):
    return hk.Linear(4)(activation(hk.Linear(8)(x)))

  before = jax.config.jax_enable_x64
  tatnet.trace(forward, jax.ShapeDtypeStruct((2, 8), jnp.float32))
  assert jax.config.jax_enable_x64 == before
  assert jnp.zeros(1).dtype == jnp.float32
