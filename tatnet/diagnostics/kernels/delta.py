"""Convolutions that do not start as Delta: what their trace says once the weights are known."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import numpy as np

from tatnet.diagnostics.kernels.warned import collected, findings_of, said
from tatnet.tracing.api import placeholder, trace_apply
from tatnet.tracing.findings import TopologyError


def spread_kernels(
  forward: Callable, params: Any, state: Any, inputs: jax.Array
) -> tuple[str, ...]:
  """Convolutions that mix locations and read padded zeros, where the maps look at one location.

  Args:
    forward: an untransformed Haiku function of the inputs and ``activation=``.
    params: its parameters as they start.
    state: its state.
    inputs: a batch.

  Returns:
    What the trace warns of, with the places.
  """
  if not any(_reaches_out(np.asarray(leaf)) for leaf in jax.tree.leaves(params)):
    return ()
  network = hk.transform_with_state(lambda x: forward(x, activation=placeholder))

  def apply(parameters, x):
    return network.apply(*parameters, jax.random.key(0), x)[0]

  # Biases that do not start at 0, and the like, the report sees by itself.
  with collected() as caught, contextlib.suppress(TopologyError):
    trace_apply(apply, (params, state), jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))
  return said([f for f in findings_of(caught) if f.kind == "kernels that are not Delta"])


def _reaches_out(kernel: np.ndarray) -> bool:
  """Whether it may be the kernel of a convolution with weights outside of its middle."""
  if kernel.ndim < 3 or math.prod(kernel.shape[:-2]) == 1:
    return False
  taps = np.abs(kernel).sum((-2, -1))
  middle = tuple(slice((n - 1) // 2, n // 2 + 1) for n in taps.shape)
  return bool(taps[middle].sum() < (1 - 1e-6) * taps.sum())
