"""How much of a signal all signals have in common: what subtracting a mean takes away."""

import functools

from tatnet.network.builders import identity
from tatnet.network.nodes import Nonlinear, Topology

# C(0) of an activation that is yet to be solved for, where a number is needed whose value
# does not matter in the end.
UNKNOWN_SHARE = 0.25


@functools.lru_cache(maxsize=256)
def mean_share(mean: Topology) -> tuple[float, bool]:
  """The share of q that signals without anything in common share, and whether it is known.

  Args:
    mean: the part of the network from the last weights to the signal.
  """
  if mean == identity():
    return 0.0, True
  activations = {p.activation for p in mean.distinct_subnetworks if isinstance(p, Nonlinear)}
  maps = {a: a.maps.C for a in activations if a is not None}
  share = mean.compose(0.0, {None: lambda _: UNKNOWN_SHARE, **maps})
  return (float(share) if share > 1e-12 else 0.0), None not in activations
