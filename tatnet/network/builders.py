"""The algebra of networks: descriptions of what a network's C map is composed of.

`chain`, `nonlinear`, `sequence`, `weighted_sum` and `identity` build a `Topology`
(`tatnet.network.nodes` has the pieces), in a canonical form: equal networks are equal.
"""

import math
import numbers
from collections.abc import Callable, Hashable
from typing import Any

from tatnet.network.assembly import flattened
from tatnet.network.lines import Centring, Mixing
from tatnet.network.nodes import (
  HandWritten,
  Identity,
  Map,
  Nonlinear,
  Topology,
  WeightedSum,
  check_topology,
  in_a_row,
)

_SUM_TOLERANCE = 1e-6


def nonlinear(activation: Hashable | None = None, *, where: str | None = None) -> Topology:
  """One nonlinear layer: an elementwise function applied to an affine map.

  Args:
    activation: None for a layer whose activation the method solves for; a
      `TransformedActivation` for a layer that keeps its own.
    where: where it stands in the model, for messages; does not enter comparisons.

  Returns:
    A `Topology`.

  Raises:
    TypeError: activation is something else.

  Example:
    >>> tatnet.nonlinear().compose(1.0, lambda y: 1.1 * y)
    1.1
  """
  if activation is not None and not hasattr(activation, "maps"):
    raise TypeError(
      f"nonlinear got the activation {activation!r}; expected None, for a layer to be solved for, or"
      " a tatnet.TransformedActivation that maps q = 1 to q = 1."
    )
  return Nonlinear(activation, where)


def identity() -> Topology:
  """The network that changes no angle: affine layers, reshaping, division by the norm.

  Pooling, dropout and normalisations that subtract a mean are the identity only behind the
  last nonlinear layer, or where the signal has no mean: see `centring`.

  Example:
    >>> tatnet.identity().compose(0.3, lambda y: y + 1)
    0.3
  """
  return Identity()


def sequence(*parts: Topology) -> Topology:
  """Parts one after the other; nested sequences are flattened, identities dropped.

  Args:
    *parts: topologies in the order of the signal.

  Returns:
    A `Topology`; the part itself when there is only one.

  Raises:
    TypeError: a part is not a topology.

  Example:
    >>> tatnet.sequence(tatnet.chain(2), tatnet.identity(), tatnet.chain(3)) == tatnet.chain(5)
    True
  """
  return in_a_row(parts)


def chain(n: int) -> Topology:
  """n nonlinear layers in a row: an MLP, or a convnet without shortcuts.

  Args:
    n: number of nonlinear layers, at least 1. A vanilla ResNet-50 has 49.

  Raises:
    TypeError: n is not an integer.
    ValueError: n is less than 1.

  Example:
    >>> tatnet.chain(49)
    49 x nonlinear
  """
  if isinstance(n, bool) or not isinstance(n, numbers.Integral):
    raise TypeError(f"chain got n={n!r}; expected an integer number of nonlinear layers.")
  if n < 1:
    raise ValueError(f"chain got n={n}; expected at least one nonlinear layer.")
  return sequence(*[Nonlinear()] * int(n))


def weighted_sum(*terms: tuple[float, Topology], where: str | None = None) -> Topology:
  """A sum of independent branches whose squared weights add to 1.

  A residual block with shortcut weight w is
  ``weighted_sum((w, identity()), (sqrt(1 - w**2), branch))``. Branches of weight 0
  are dropped. Parts of n_i out of n channels that are concatenated make a sum
  with weights ``sqrt(n_i / n)``.

  Args:
    *terms: pairs (weight, branch).
    where: where it stands in the model, for messages; does not enter comparisons.

  Returns:
    A `Topology`; the branch itself when only one has weight.

  Raises:
    ValueError: the squared weights do not add to 1 (within 1e-6).
    TypeError: a term is not a pair of a number and a topology.

  Reference:
    Deep Kernel Shaping (arXiv 2110.01765), normalised sums.

  Example:
    >>> block = tatnet.weighted_sum((0.6, tatnet.identity()), (0.8, tatnet.chain(3)))
    >>> round(block.compose(1.0, lambda slope: 1.1 * slope), 6)
    1.21184
  """
  weights, branches = [], []
  for term in terms:
    if not (isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], numbers.Real)):
      raise TypeError(
        f"weighted_sum got the term {term!r}; expected pairs (weight, topology) such as"
        " (0.6, tatnet.identity())."
      )
    weights.append(float(term[0]))
    branches.append(check_topology("weighted_sum", term[1]))
  total = sum(weight * weight for weight in weights)  # a huge one squared is infinite
  if not abs(total - 1) <= _SUM_TOLERANCE:
    fixed = [weight / math.sqrt(total) for weight in weights] if total > 0 else []
    remedy = (
      f" Use {', '.join(f'{w:.9g}' for w in fixed)}." if math.isfinite(total) and fixed else ""
    )
    raise ValueError(
      f"weighted_sum got the weights {weights}, whose squares add to {total:.6g}; expected"
      f" 1, so that the sum keeps q values.{remedy}"
    )
  kept = [(w, b) for w, b in zip(weights, branches, strict=True) if w]
  if len(kept) == 1:
    return kept[0][1]
  weights, branches = zip(*kept, strict=True)
  # Weights from 32-bit arithmetic miss 1 by a little, which depth would compound.
  return flattened(WeightedSum(tuple(w / math.sqrt(total) for w in weights), branches, where))


def mixing(step: float, *, where: str | None = None) -> Topology:
  """An attention layer whose tokens all have one cosine: ``F(x) = step + (1 - step) x``.

  In the family of token kernels with equal off-diagonals attention moves every cosine a
  share of the way to 1, and leaves q at 1.

  Args:
    step: the share, at least 0 and below 1; 0 is the identity, as which Value-SkipInit
      and shaped attention start.
    where: where it stands in the model, for messages; does not enter comparisons.

  Returns:
    A `Topology`; the identity for a step of 0.

  Raises:
    TypeError: step is not a number.
    ValueError: step is outside of [0, 1).

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322), uniform kernels.

  Example:
    >>> block = tatnet.sequence(tatnet.mixing(0.1), tatnet.chain(1))
    >>> round(tatnet.cmap(block, tatnet.TransformedActivation("erf"), 0.0), 6)  # asin(0.2 / 3) / asin(2 / 3)
    0.091426
  """
  if isinstance(step, bool) or not isinstance(step, numbers.Real):
    raise TypeError(f"mixing got step={step!r}; expected a number in [0, 1).")
  if not 0 <= step < 1:
    raise ValueError(
      f"mixing got step={step}; expected a number in [0, 1): the share of the way to 1 that one"
      " attention layer moves the cosine of two tokens."
    )
  return Mixing(float(step), where) if step else Identity()


def centring(behind: Topology | None = None, *, where: str | None = None) -> Topology:
  """Layer or group normalisation behind an activation: ``c -> (c - c0) / (1 - c0)``.

  Behind weights it changes nothing, and nothing need be written. Behind an activation
  with C(0) = c0 > 0 the mean over features, which all signals share, is subtracted.

  Args:
    behind: what stands between the last weights and the normalisation, whose C map at 0
      is c0; by default one nonlinear layer of the activation to be solved for.
    where: where it stands in the model, for messages; does not enter comparisons.

  Returns:
    A `Topology`; the identity behind the identity.

  Raises:
    TypeError: behind is not a topology.

  Example:
    >>> net = tatnet.sequence(*[tatnet.chain(1), tatnet.centring()] * 2)
    >>> round(tatnet.cmap(net, "relu", 0.0), 6) + 0.0
    0.0
  """
  behind = Nonlinear() if behind is None else check_topology("centring", behind)
  # Behind weights no mean is common.
  return Identity() if isinstance(behind, Identity) else Centring(behind, where)


def as_topology(topology: Topology | Callable[[Any, Map], Any]) -> Topology:
  """A topology as it is; a hand-written maximising function ``f(x, r)`` wrapped."""
  if isinstance(topology, Topology):
    return topology
  if callable(topology) and not isinstance(topology, type):
    return HandWritten(topology)
  raise TypeError(
    f"topology is {topology!r} ({type(topology).__name__}); expected a tatnet.Topology, such"
    " as tatnet.chain(49), or a function f(x, r) that applies the map r wherever the network"
    " has a nonlinear layer."
  )
