"""Evaluation of labels at every location: means over them, and over the examples that count."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from tatnet import training


def as_they_are(params, state, key, inputs, is_training):
  """A network whose logits are its inputs."""
  return inputs, state


def test_an_example_is_the_mean_of_its_locations(caplog):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(5, 7, 4)), rng.integers(0, 4, (5, 7))
  mask = np.array([True, True, False, True, False])
  logits[2] = np.nan  # padding may hold anything
  evaluate = training.make_evaluation(types.SimpleNamespace(apply=as_they_are))
  parts = (slice(0, 3), slice(3, 5))
  batches = [
    {"image": jnp.asarray(logits[p]), "label": jnp.asarray(labels[p]), "mask": jnp.asarray(mask[p])}
    for p in parts
  ]
  result = evaluate({}, {}, batches)
  kept = scipy.special.log_softmax(logits[mask], -1)
  expected = -np.take_along_axis(kept, labels[mask][..., None], -1).mean()
  np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
  np.testing.assert_allclose(result.accuracy, (kept.argmax(-1) == labels[mask]).mean(), rtol=1e-6)
  assert result.count == 3
  batches[1]["label"] = jax.numpy.full((2, 7), 4).at[0, 1:].set(0)
  assert np.isnan(evaluate({}, {}, batches).loss)
  assert "1 of 21 labels are none of the network's classes" in caplog.text
