"""Solving leaves no trace: no global state, the same result every time and in every thread."""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tatnet


def solve_many():
  for name in ("tanh", "softplus", "elu", "leaky_relu", lambda x: jnp.tanh(x) + x / 9):
    tatnet.transform_activation(name, tatnet.chain(31), tatnet.DKS(1.7))
  tatnet.transform_activation("softplus", tatnet.chain(31), tatnet.TAT())
  tatnet.transform_activation("gelu", tatnet.chain(31), tatnet.EOC(0.3))
  with pytest.raises(ValueError, match="out of reach"):
    tatnet.transform_activation("hard_tanh", tatnet.chain(31), tatnet.DKS())
  with pytest.raises(ValueError, match="not finite"):
    tatnet.transform_activation(jnp.log, tatnet.chain(31), tatnet.DKS())


def test_no_global_state_changes(capfd):
  x64, random = jax.config.jax_enable_x64, np.random.get_state()
  with np.errstate(divide="warn", over="raise", under="ignore", invalid="call", call=print):
    errors, handler = np.geterr(), np.geterrcall()
    solve_many()
    assert np.geterr() == errors
    assert np.geterrcall() is handler
  assert jax.config.jax_enable_x64 == x64
  assert jnp.ones(1).dtype == (jnp.float64 if x64 else jnp.float32)
  after = np.random.get_state()
  assert (random[0], *random[2:]) == (after[0], *after[2:])
  np.testing.assert_array_equal(random[1], after[1])
  assert capfd.readouterr() == ("", "")


def test_every_thread_gets_the_same():
  def solve(name):
    return tatnet.transform_activation(name, tatnet.chain(37), tatnet.DKS(1.3))

  def unnamed(x):
    return jnp.tanh(x) + x / 9

  # No result for these was computed before: the threads meet inside the solver.
  names = ["erf", unnamed, "gelu", "softsign", unnamed, "erf", "mish", "gelu"]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    threaded = dict(zip(names, pool.map(solve, names), strict=True))
  assert threaded == {name: solve(name) for name in names}


def test_an_x64_context_changes_nothing():
  outside = tatnet.transform_activation(jnp.tanh, tatnet.chain(23), tatnet.DKS(1.3))
  with jax.enable_x64(True):
    inside = tatnet.transform_activation(jnp.tanh, tatnet.chain(23), tatnet.DKS(1.3))
  assert inside == outside
  named = tatnet.transform_activation("tanh", tatnet.chain(23), tatnet.DKS(1.3))
  assert outside.input_scale == pytest.approx(named.input_scale, rel=1e-7)


def test_a_record_made_while_tracing_is_a_constant():
  def layer(x):
    return tatnet.transform_activation("tanh", tatnet.chain(9), tatnet.DKS(1.3))(x)

  x = jnp.linspace(-3, 3, 7)
  act = tatnet.transform_activation("tanh", tatnet.chain(9), tatnet.DKS(1.3))
  np.testing.assert_allclose(jax.jit(layer)(x), act(x), rtol=1e-5)
