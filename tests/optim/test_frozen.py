"""Parts of a layer that another optimiser has: the block is that of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_references import as_matrix, kronecker_update, quick_jit, random_factors, random_like

import tatnet

RNG = np.random.default_rng(0)
PARAMS = random_like(
  {
    "linear": {"w": jnp.ones((4, 3)), "b": jnp.ones(3)},
    "norm": {"scale": jnp.ones(3), "offset": jnp.ones(3)},
  },
  RNG,
)
GRADIENTS = random_like(PARAMS, RNG)
FACTORS = random_factors(PARAMS, RNG)
DAMPING = 0.1


def updates(labels):
  optimizer = optax.partition(
    {"kfac": tatnet.scale_by_kfac(DAMPING, burn_in=0), "frozen": optax.set_to_zero()}, labels
  )
  update = quick_jit(lambda g, f: optimizer.update(g, optimizer.init(PARAMS), PARAMS, factors=f)[0])
  return update(GRADIENTS, FACTORS)


# Rows of the layer's matrix, weight over bias, that are trained.
@pytest.mark.parametrize(("frozen", "rows"), [("b", slice(0, 4)), ("w", slice(4, 5))])
def test_trained_part_has_its_block_of_the_curvature(frozen, rows):
  labels = {"linear": {"w": "kfac", "b": "kfac"} | {frozen: "frozen"}, "norm": "kfac"}
  found = as_matrix(updates(labels)["linear"])
  a, g = (np.asarray(FACTORS.layers["linear"][side]) for side in ("inputs", "outputs"))
  expected = np.zeros((5, 3))
  expected[rows] = kronecker_update(as_matrix(GRADIENTS["linear"])[rows], a[rows, rows], g, DAMPING)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_frozen_offset_leaves_the_scale_as_it_was():
  whole = updates("kfac")["norm"]
  part = updates({"linear": "kfac", "norm": {"scale": "kfac", "offset": "frozen"}})["norm"]
  np.testing.assert_array_equal(part["scale"], whole["scale"])
  np.testing.assert_array_equal(part["offset"], 0)


def test_layer_that_is_frozen_as_a_whole_may_have_factors():
  found = updates({"linear": "frozen", "norm": "kfac"})
  np.testing.assert_array_equal(found["linear"]["w"], 0)
  assert np.all(found["norm"]["scale"])


def test_layer_that_is_elsewhere_has_no_state():
  optimizer = tatnet.scale_by_kfac()
  state = optax.masked(optimizer, {"linear": True, "norm": False}).init(PARAMS)
  assert set(optax.tree.get(state, "curvature")) == {"linear"}


@pytest.mark.parametrize("uncovered", ["error", "identity"])
def test_no_layer_at_all_is_refused(uncovered):
  params = {"own": {"gate": jnp.ones(2)}}
  with pytest.raises(ValueError, match=r"own/gate\n(Pass uncovered|There is no layer for K-FAC)"):
    tatnet.kfac(0.1, uncovered=uncovered).init(params)


def test_whole_tree_of_another_optimiser_is_no_error():
  state = optax.masked(tatnet.scale_by_kfac(), jax.tree.map(lambda _: False, PARAMS)).init(PARAMS)
  assert not optax.tree.get(state, "curvature")
