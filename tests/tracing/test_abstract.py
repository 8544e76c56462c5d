"""Tracing computes nothing, touches no global state, and runs in several threads at once."""

import subprocess
import sys
import threading
import warnings

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import tatnet

# 152 layers as in the papers: v2 bottlenecks in stages of 3, 8, 36 and 3 blocks.
PROGRAM = """
import resource
import haiku as hk, jax, jax.numpy as jnp, tatnet

def forward(x, activation):
  x = hk.Conv2D(64, 7, stride=2)(x)
  for stage, count in enumerate((3, 8, 36, 3)):
    width = 64 * 2**stage
    for block in range(count):
      stride = 2 if stage and not block else 1
      y = activation(x)
      shortcut = x if block else hk.Conv2D(4 * width, 1, stride=stride)(y)
      y = hk.Conv2D(width, 1)(y)
      y = hk.Conv2D(width, 3, stride=stride)(activation(y))
      y = hk.Conv2D(4 * width, 1)(activation(y))
      x = 0.6 * shortcut + 0.8 * y
  return hk.Linear(1000)(activation(x).mean((1, 2)))

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
topology = tatnet.trace(forward, jax.ShapeDtypeStruct((256, 224, 224, 3), jnp.float32))
print(topology.num_nonlinear, peak() - before, sum(a.nbytes for a in jax.live_arrays()))
"""


def test_nothing_of_the_models_size_is_allocated():
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=True
  )
  layers, megabytes, live = result.stdout.split()
  assert layers == "151"
  # The first block's signals alone would take 3 GB, the weights 240 MB. What is
  # counted here is the program itself and what the compiler's library loads.
  assert float(megabytes) < 200
  assert int(live) < 1e5


def residual(x, activation, depth):
  x = hk.Linear(8)(x)
  for _ in range(depth):
    x = 0.6 * x + 0.8 * hk.Linear(8)(activation(x))
  return x


SHAPE = jax.ShapeDtypeStruct((2, 8), jnp.float32)


def test_global_state_is_left_alone():
  before = {name: getattr(jax.config, name) for name in ("jax_enable_x64", "jax_debug_nans")}
  filters = list(warnings.filters)
  tatnet.trace(residual, SHAPE, depth=2)
  assert before == {name: getattr(jax.config, name) for name in before}
  assert jnp.zeros(1).dtype == jnp.float32
  assert warnings.filters == filters


def test_state_is_left_alone_when_the_model_fails():
  def failing(x, activation):
    raise RuntimeError

  for broken in (failing, lambda x, activation: activation(x)):
    with pytest.raises((RuntimeError, tatnet.TopologyError)):
      tatnet.trace(broken, SHAPE)
    assert jnp.zeros(1).dtype == jnp.float32


def test_the_model_runs_as_it_did_before():
  """Jitted functions inside a model are not left compiled for tracing's own precision."""
  layer = jax.jit(lambda w, x: jnp.tanh(x @ w))
  w, x = jnp.eye(8), jnp.ones([2, 8])
  tatnet.trace_apply(lambda w, x: layer(w, x) @ jnp.eye(8), w, x)
  assert layer(w, x).dtype == jnp.float32


def test_traces_in_parallel():
  """Each thread reads its own model; one that computes meanwhile stays in single precision."""
  depths = [3, 7, 12, 5]
  found, dtypes, start = {}, set(), threading.Barrier(len(depths) + 1)

  def read(depth):
    start.wait()
    for _ in range(4):
      found.setdefault(depth, []).append(tatnet.trace(residual, SHAPE, depth=depth))

  def compute():
    start.wait()
    for size in range(1, 60):
      dtypes.add((jnp.ones(size) * 0.5).dtype)

  threads = [threading.Thread(target=read, args=(depth,)) for depth in depths]
  threads.append(threading.Thread(target=compute))
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.nonlinear()))
  for depth in depths:
    assert found[depth] == [tatnet.sequence(*[block] * depth)] * 4
  assert dtypes == {jnp.dtype(jnp.float32)}
