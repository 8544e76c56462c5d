"""Which rule reads which primitive."""

import math

from tatnet.tracing import affine, elementwise, reductions, shapes
from tatnet.tracing import axes as axis_labels
from tatnet.tracing.expressions import ELEMENTWISE
from tatnet.tracing.nodes import Node
from tatnet.tracing.program import (
  Equation,
  Reader,
  Rule,
  is_signal,
  report_later,
  unreadable,
  without_signal,
)
from tatnet.tracing.signals import consumed, pooled
from tatnet.tracing.values import Data, Signal, Unreadable, Value

_UNCHANGED = (
  "copy", "copy_p", "reduce_precision", "optimization_barrier", "pvary",
  "sharding_constraint", "mesh_cast", "reshard", "name", "stop_gradient", "pbroadcast",
)  # fmt: skip
_REARRANGED = (
  "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice",
  "rev", "split", "tile", "unstack",
)  # fmt: skip


def unknown(reader: Reader, seen: Equation) -> list[Value]:
  """A primitive that no rule covers."""
  if not any(is_signal(value) for value in seen.inputs):
    return _random(seen) if seen.name.startswith(("random_", "threefry")) else without_signal(seen)
  if all(
    isinstance(value, Signal) or not is_signal(value)
    for value in (pooled(reader, value, seen) for value in seen.inputs)
  ):
    for value in seen.inputs:
      if isinstance(value, Signal):
        consumed(reader, value, seen)
    node = report_later(
      reader,
      seen,
      "unknown operation",
      f"the primitive {seen.name} is applied to a signal",
      "describe the network by hand: tatnet.sequence, tatnet.weighted_sum, tatnet.nonlinear; or"
      " trace the parts before and after it separately.",
    )
    # Read on as if it were not there, to find what else is wrong.
    return [Signal(node, 1.0, axis_labels.of_input(len(shape), 0)) for shape in seen.out_shapes]
  return unreadable(seen)


def _random(seen: Equation) -> list[Value]:
  return [Data("random", size=math.prod(shape)) for shape in seen.out_shapes]


def index_of_maximum(reader: Reader, seen: Equation) -> list[Value]:
  """argmax and its kin end in integers, where the signal ends."""
  del reader
  if isinstance(seen.inputs[0], Unreadable):
    return unreadable(seen)
  return [Data() for _ in seen.out_shapes]


def activation(reader: Reader, seen: Equation) -> list[Value]:
  """The call that stands for the activation to be solved for."""
  value = pooled(reader, seen.inputs[0], seen)
  if not isinstance(value, Signal):
    return unreadable(seen) if is_signal(value) else without_signal(seen)
  node, factor = consumed(reader, value, seen)
  tolerance = max(seen.tolerance, 1e-6)
  if not (node.is_raw or node.is_mended or value.is_unsure) and abs(abs(factor) - 1) > tolerance:
    _report_q(reader, seen, node, factor)
  result = reader.network.nonlinear(node, None, None, seen.place)
  outputs: list[Value] = [Signal(result, 1.0, value.axes, layout=value.layout)]
  if len(seen.out_shapes) > 1:  # its derivatives, which a network of physics returns
    derivative = report_later(
      reader,
      seen,
      "derivative of the network",
      "the model differentiates itself",
      "trace the network that is differentiated.",
    )
    outputs += [Unreadable(derivative) for _ in seen.out_shapes[1:]]
  return outputs


def _report_q(reader: Reader, seen: Equation, node: Node, factor: float) -> None:
  if node.drops:
    rates = ", ".join(f"{1 - keep:.3g} at {place}" for place, keep in node.drops)
    reader.findings.warn(
      "dropout between nonlinear layers",
      seen.place,
      f"its input has q = {factor**2:.5g}, since entries before it are dropped (rate {rates}) while"
      " training; cosines shrink by as much as q grows",
      "trace the network as it is evaluated, without dropout; or drop entries behind the last"
      " nonlinear layer only.",
    )
    return
  reader.findings.error(
    "q is not 1 at an activation",
    seen.place,
    f"its input has q = {factor**2:.7g}",
    "keep q at 1: no constant factors, sums with squared weights that add to 1, and transformed"
    " activations throughout.",
  )


RULES: dict[str, Rule] = {
  **dict.fromkeys(ELEMENTWISE, elementwise.elementwise),
  "interp": elementwise.interpolated,
  "convert_element_type": shapes.converted,
  **dict.fromkeys(_UNCHANGED, shapes.unchanged),
  **dict.fromkeys(_REARRANGED, shapes.rearranged),
  **dict.fromkeys(("argmax", "argmin"), index_of_maximum),
  **dict.fromkeys(("reduce", "reduce_window"), unknown),
  "dot_general": affine.dot_general,
  "conv_general_dilated": affine.convolution,
  "gather": affine.gather,
  **dict.fromkeys(("psum", "psum_invariant"), reductions.sum_over_devices),
  "reduce_sum": reductions.reduce_sum,
  "reduce_max": reductions.reduce_max,
  "reduce_window_sum": reductions.window_sum,
  "reduce_window_max": reductions.window_max,
  "pad": shapes.pad,
  "concatenate": shapes.concatenate,
  "stack": shapes.stack,
}
