"""Which rule reads which primitive."""

from tatnet.tracing import affine, elementwise, reductions, shapes
from tatnet.tracing import axes as axis_labels
from tatnet.tracing.expressions import ELEMENTWISE
from tatnet.tracing.program import Equation, Reader, Rule, is_signal, unreadable, without_signal
from tatnet.tracing.signals import consumed, linear, pooled
from tatnet.tracing.values import Data, Signal, Unreadable, Value

_UNCHANGED = (
  "convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier", "pvary",
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
    reader.findings.error(
      "unknown operation",
      seen.place,
      f"the primitive {seen.name} is applied to a signal",
      "describe the network by hand: tatnet.sequence, tatnet.weighted_sum, tatnet.nonlinear; or"
      " trace the parts before and after it separately.",
    )
    if len(seen.out_shapes) == sum(map(is_signal, seen.inputs)) == 1:
      return [_read_on(reader, seen)]
  return unreadable(seen)


def _read_on(reader: Reader, seen: Equation) -> Signal:
  """The signal as if the operation were not there, to find what else is wrong."""
  values = (pooled(reader, value, seen) for value in seen.inputs)
  signal = next(linear(reader, value, seen) for value in values if isinstance(value, Signal))
  axes = axis_labels.of_input(len(seen.out_shapes[0]), 0)
  layout = (*signal.layout, (seen.name, seen.place))
  return Signal(signal.node, signal.scale, axes, layout=layout)


def _random(seen: Equation) -> list[Value]:
  return [Data("random") for _ in seen.out_shapes]


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
  if node.kind != "input" and abs(abs(factor) - 1) > tolerance:
    reader.findings.error(
      "q is not 1 at an activation",
      seen.place,
      f"its input has q = {factor**2:.4g}",
      "keep q at 1: no constant factors, sums with squared weights that add to 1, and transformed"
      " activations throughout.",
    )
  result = reader.network.nonlinear(node, None, None, seen.place)
  return [Signal(result, 1.0, value.axes, layout=value.layout)]


RULES: dict[str, Rule] = {
  **dict.fromkeys(ELEMENTWISE, elementwise.elementwise),
  **dict.fromkeys(_UNCHANGED, shapes.unchanged),
  **dict.fromkeys(_REARRANGED, shapes.rearranged),
  **dict.fromkeys(("argmax", "argmin"), index_of_maximum),
  **dict.fromkeys(("reduce", "reduce_window"), unknown),
  "dot_general": affine.dot_general,
  "conv_general_dilated": affine.convolution,
  "gather": affine.gather,
  "psum": reductions.reduce_sum,  # over an axis of vmap
  "reduce_sum": reductions.reduce_sum,
  "reduce_max": reductions.reduce_max,
  "reduce_window_sum": reductions.window_sum,
  "reduce_window_max": reductions.window_max,
  "pad": shapes.pad,
  "concatenate": shapes.concatenate,
}
