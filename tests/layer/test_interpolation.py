"""Many values of a C map at once are those of the map itself, one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

import tatnet

FEW = np.array([-1.0, -0.7, 0.0, 0.3, 0.99, 1.0])
ACTIVATIONS = {
  "smooth": jnp.tanh,
  "kinks": tatnet.Activation(lambda x: jnp.clip(x, -1.0, 2.0), kinks=(-1.0, 2.0)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_many_cosines_are_those_of_single_ones(activation):
  maps = tatnet.local_maps(activation)
  many = np.concatenate([FEW, np.linspace(-1, 1, 150)])
  found = tatnet.cmap(tatnet.chain(1), activation, many)[: len(FEW)]
  np.testing.assert_allclose(found, maps.C(FEW), rtol=0, atol=1e-11)
