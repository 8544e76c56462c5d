"""Trees of several libraries in K-FAC's layout, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kfac_references import random_like

from tatnet.optim.layers import as_layers

FLAX = {
  "Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
  "Block_0": {
    "Conv_0": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "LayerNorm_0": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
    "query": {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones((2, 3))},
    "out": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones(4)},
  },
  "Embed_0": {"embedding": jnp.ones((5, 2))},
  "Stack": {"Dense_0": {"kernel": jnp.ones((6, 2, 4)), "bias": jnp.ones((6, 4))}},
}


def test_names_of_flax_are_brought_into_the_layout():
  shapes = jax.tree.map(jnp.shape, as_layers(FLAX).arrays, is_leaf=lambda a: hasattr(a, "shape"))
  assert shapes == {
    "Dense_0": {"w": (2, 3), "b": (3,)},
    "Block_0/Conv_0": {"w": (3, 3, 2, 4), "b": (4,)},
    "Block_0/LayerNorm_0": {"scale": (4,), "offset": (4,)},
    "Block_0/query": {"w": (4, 6), "b": (6,)},
    "Block_0/out": {"w": (2, 3, 4), "b": (4,)},
    "Embed_0": {"embeddings": (5, 2)},
    "Stack/Dense_0": {"w": (6, 2, 4), "b": (6, 4)},
  }


@pytest.mark.parametrize(
  "params", [FLAX, {"linear": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}], ids=["flax", "haiku"]
)
def test_way_back_is_the_tree_itself(params):
  params = random_like(params, np.random.default_rng(0))
  layers = as_layers(params)
  again = layers.restore(layers.arrays)
  assert jax.tree.structure(again) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, again, params)
