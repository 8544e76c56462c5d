"""`attention_schedule`: attention that is planned together with the nonlinear layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tatnet.attention.checks import as_cosine, check_flag
from tatnet.attention.schedule import AttentionSchedule
from tatnet.attention.uniform import UniformLayer
from tatnet.layer.activations import Activation
from tatnet.layer.fields import is_number, shown
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.builders import as_topology
from tatnet.network.lines import Mixing
from tatnet.network.nodes import HandWritten, Nonlinear, Topology
from tatnet.shaping.global_maps import map_of_each_layer

_CLOSE = 1e-9
_Q_TOLERANCE = 1e-6


def attention_schedule(
  topology: Topology,
  activation: str | Activation | Callable | TransformedActivation,
  *,
  step: float | Sequence[float] | None = None,
  causal: bool = True,
  input_cosine: float = 0.0,
) -> AttentionSchedule:
  """Plans every attention layer of a network for the kernel that really arrives there.

  Attention that is planned by itself, and activations that are, miss their targets
  together: nonlinear layers raise cosines between two attention layers, so that
  attention sums tokens that are more alike than planned, and q grows. Here each attention layer
  leads from the kernel behind the layers before it to one whose cosines are a `step` nearer
  to 1; q is 1 at every location and depth, and the kernel is that of `tatnet.cmap`.

  Args:
    topology: the network, with `tatnet.mixing` where its attention layers stand.
    activation: that of its nonlinear layers, solved for this topology. It has to keep q = 1,
      as those of TAT and DKS do.
    step: for a check, the step of the attention layers, or that of each. In a topology
      without any (a mixing of step 0 is the identity) 0 plans an identity in front of every
      nonlinear layer.
    causal: whether tokens read none after them.
    input_cosine: mean cosine of the tokens that enter the network; 0 for those without
      anything in common. Tokens that repeat and patches of images have more.

  Returns:
    An `AttentionSchedule` of uniform kernels, of any length.

  Raises:
    TypeError: arguments of another kind.
    ValueError: a topology without attention layers, or written by hand; steps other than the
      topology's; a cosine outside of [0, 1); an activation that does not keep q = 1.

  Reference:
    He et al., Deep Transformers without Shortcuts (arXiv 2302.10322), for uniform kernels;
    planning both together is derived in the page on the theory of attention.

  Example:
    >>> topology = tatnet.sequence(*[tatnet.mixing(0.05), tatnet.chain(2)] * 12)
    >>> act = tatnet.transform_activation("leaky_relu", topology, tatnet.TAT(0.9))
    >>> schedule = tatnet.attention_schedule(topology, act, step=0.05)
    >>> behind = tatnet.cmap(tatnet.chain(2), act, schedule.kernel(0))  # the nonlinear layers
    >>> round(schedule.kernel(1) - (0.05 + 0.95 * behind), 12)
    0.0
  """
  network = as_topology(topology)
  check_flag("attention_schedule", "causal", causal)
  cosine = as_cosine("attention_schedule", "input_cosine", input_cosine)
  if isinstance(network, HandWritten):
    raise ValueError(
      f"attention_schedule got {network!r}, which does not say where attention stands; expected a"
      " topology of tatnet.sequence, tatnet.mixing and the other parts."
    )
  record = as_transformed(activation)
  _check_q(record)
  parts = network.distinct_subnetworks
  mixing = {part for part in parts if isinstance(part, Mixing)}
  given = _as_steps(step)
  if not mixing and any(
    share != 0.0 for share in (given if isinstance(given, tuple) else (given,))
  ):
    raise ValueError(
      f"attention_schedule got a topology without attention layers and step={shown(step)}; expected"
      " tatnet.mixing(step) in front of the nonlinear layers of each block: tatnet.sequence("
      "*[tatnet.mixing(0.05), tatnet.chain(2)] * depth)."
    )
  found = _arriving(network, record, cosine, mixing)
  if mixing:
    _check_steps(given, [share for _, share in found])
  layers = tuple(UniformLayer(c, c + share * (1 - c), causal) for c, share in found)
  return AttentionSchedule(layers, causal, keeps_q=True)


def _arriving(
  network: Topology, record: TransformedActivation, cosine: float, mixing: set[Mixing]
) -> list[tuple[float, float]]:
  """The cosine that arrives at each attention layer, and its step, in the order of the signal."""
  found: list[tuple[float, float]] = []

  def local(c):  # sums leave [-1, 1] by rounding
    return record.maps.C(min(max(c, -1.0), 1.0))

  own = map_of_each_layer(network, local, "C")
  own = own if isinstance(own, Mapping) else {None: own}

  def before_layer(r):
    def noted(x):
      found.append((float(x), 0.0))
      return r(x)

    return noted

  def through(part):
    def noted(x):
      found.append((min(max(float(x), 0.0), 1 - 1e-15), part.step))
      return part.step + (1 - part.step) * x

    return noted

  if mixing:
    maps = own | {part: through(part) for part in mixing}
  else:
    nonlinear = {p.activation for p in network.distinct_subnetworks if isinstance(p, Nonlinear)}
    maps = own | {name: before_layer(own[name]) for name in nonlinear}
  network.compose(cosine, maps)
  return found


def _as_steps(step: Any) -> float | tuple[float, ...] | None:
  if step is None:
    return None
  if isinstance(step, list | tuple):
    return tuple(_as_step(share) for share in step)
  return _as_step(step)


def _as_step(step: Any) -> float:
  """The share of the way to 1 by which an attention layer moves cosines.

  Raises:
    TypeError: it is no number.
    ValueError: it is outside of [0, 1).
  """
  if not is_number(step):
    raise TypeError(f"attention_schedule got step={shown(step)}; expected a number in [0, 1).")
  if not 0 <= step < 1:
    raise ValueError(
      f"attention_schedule got step={shown(step)}; expected a number in [0, 1): the share of the way"
      " to 1 that one attention layer moves the cosine of two tokens."
    )
  return float(step)


def _check_steps(given: float | tuple[float, ...] | None, found: list[float]) -> None:
  """Raises ValueError where the topology has other steps than those that were given."""
  if given is None:
    return
  expected = given if isinstance(given, tuple) else (given,) * len(found)
  if len(expected) == len(found) and all(
    abs(a - b) <= _CLOSE for a, b in zip(expected, found, strict=True)
  ):
    return
  steps = ", ".join(f"{share:g}" for share in dict.fromkeys(found))
  raise ValueError(
    f"attention_schedule got step={shown(given)} for a topology with {len(found)} attention layers of"
    f" step {steps}; expected the same. The step stands in the topology, since the activation is"
    " solved for it: change tatnet.mixing(...) there, and leave step out."
  )


def _check_q(record: TransformedActivation) -> None:
  q = record.maps.Q(1.0)
  if abs(q - 1) > _Q_TOLERANCE:
    raise ValueError(
      f"attention_schedule got {record!r}, which maps q = 1 to {q:.6g}; expected an activation that"
      " keeps q = 1, since attention is planned for kernels with ones on the diagonal. Solve for it:"
      " tatnet.transform_activation(name, topology, tatnet.TAT())."
    )
