"""Taps: identity functions whose backward pass observes a layer.

A tap stands at the input and at the output of a layer. It leaves the signal as it
is; the cotangent of its dummy argument *is* a statistic of the layer: the second
moment of the inputs, or that of the gradients with respect to the outputs. So
Kronecker factors come out of the ordinary backward pass, under `jit`, `scan`,
`remat`, `vmap` and sharding alike.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax

from tatnet.optim.blocks import DENSE_UP_TO
from tatnet.optim.dummies import Plan, Tap, as_tap
from tatnet.optim.moments import Counting, InputMoment, OutputMoment, ParameterMoment, TableMoment
from tatnet.optim.observed import observe_inputs, observe_outputs, observe_rows, scaled, shifted
from tatnet.optim.patches import Window, window_of
from tatnet.optim.uses import marked


@dataclasses.dataclass(frozen=True)
class Observer(Counting):
  """What the taps of one network have in common.

  Attributes:
    batch: number of examples.
    sharing: what layers do that use their weights several times on an example, at many
      locations, in a recurrence, or in two branches.
      "expand": every use counts as an example (KFC, arXiv 1602.01407).
      "reduce": inputs are averaged and gradients summed over the uses first
      (arXiv 2311.00636).
    dtype: of the statistics.
    dense_up_to: size of the largest side of a layer that has a dense moment; of a larger
      one there is only the diagonal.

  Example:
    >>> def apply(params, taps, observer, x):  # for `value_grad_and_factors`
    ...   return observer.dense(x, params["out"]["w"], None, taps["out"])
    >>> evaluate = tatnet.value_grad_and_factors(apply, tatnet.optim.SquaredError())
    >>> params = {"out": {"w": jnp.ones([3, 1])}}
    >>> result = evaluate(params, jnp.ones([4, 3]), jnp.ones([4, 1]), key=jax.random.key(0))
    >>> result.factors.layers["out"]["inputs"].shape
    (3, 3)
  """

  dense_up_to: int = DENSE_UP_TO

  def dense(self, x: jax.Array, w, b, tap: Tap | Mapping[str, jax.Array]) -> jax.Array:
    """``x @ w + b`` for x ``[batch, ..., inputs]``; b may be None."""
    tap = as_tap(tap)
    y = self.inputs(x, tap, with_bias=b is not None) @ w
    return self.outputs(y if b is None else y + b, tap)

  def convolution(
    self,
    x: jax.Array,
    w,
    b,
    tap: Tap | Mapping[str, jax.Array],
    *,
    stride=1,
    padding="SAME",
    dilation=1,
  ) -> jax.Array:
    """A convolution of x ``[batch, *space, inputs]`` with w ``[*window, inputs, outputs]``."""
    tap = as_tap(tap)
    space = x.ndim - 2
    letters = "DHW"[-space:]
    window = window_of(x.shape[1:-1], w.shape[:-2], stride, padding, dilation)
    y = jax.lax.conv_general_dilated(
      self.inputs(x, tap, with_bias=b is not None, window=window),
      w,
      window.stride,
      window.padding,
      rhs_dilation=window.dilation,
      dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    return self.outputs(y if b is None else y + b, tap)

  def scale_and_offset(
    self, x: jax.Array, scale, offset, tap: Tap | Mapping[str, jax.Array]
  ) -> jax.Array:
    """``scale * x + offset`` for x ``[batch, ...]``; either may be None."""
    tap = as_tap(tap)
    for name, parameter, function in (("scale", scale, scaled), ("offset", offset, shifted)):
      if parameter is None:
        continue
      dummies = tap.side(name)
      if dummies and tap.plan.look is None:
        x = function(ParameterMoment(self, tap.plan, (name,)), x, parameter, dummies[name])
      else:
        x = self._marked(x, dummies, tap.plan)
        x = x * parameter if name == "scale" else x + parameter
    return x

  def embedding(self, ids: jax.Array, embeddings, tap: Tap | Mapping[str, jax.Array]) -> jax.Array:
    """Rows of a table ``[vocabulary, dim]`` for ids ``[batch, ...]``."""
    return self.looked_up(ids, embeddings[ids], as_tap(tap))

  def inputs(
    self,
    x: jax.Array,
    tap: Tap,
    *,
    with_bias: bool,
    window: Window | None = None,
    channel_axis: int = -1,
  ) -> jax.Array:
    """x itself, observed as the inputs of a layer."""
    moment = InputMoment(
      self, tap.plan, ("inputs",), channel_axis, tap.is_diagonal("inputs"), with_bias, window
    )
    return self._observed(observe_inputs, moment, x, tap.side("inputs"))

  def outputs(self, y: jax.Array, tap: Tap, *, channel_axis: int = -1) -> jax.Array:
    """y itself, observed as the outputs of a layer."""
    names = ("outputs", "uses")
    moment = OutputMoment(self, tap.plan, names, channel_axis, tap.is_diagonal("outputs"))
    return self._observed(observe_outputs, moment, y, tap.side("outputs", "uses"))

  def looked_up(self, ids: jax.Array, y: jax.Array, tap: Tap) -> jax.Array:
    """y itself, the rows of a table for the ids."""
    dummies = tap.side("inputs", "outputs", "uses")
    if not dummies or tap.plan.look is not None:
      return self._marked(y, dummies, tap.plan)
    moment = TableMoment(
      self,
      tap.plan,
      tuple(dummies),
      is_diagonal=tap.is_diagonal("outputs"),
      rows=dummies["inputs"].shape[0],
    )
    return observe_rows(moment, ids, y, dummies)

  def _observed(self, function: Callable, statistic, x: jax.Array, dummies) -> jax.Array:
    if not dummies or statistic.plan.look is not None:
      return self._marked(x, dummies, statistic.plan)
    return function(statistic, x, dummies)

  def _marked(self, x: jax.Array, dummies, plan: Plan) -> jax.Array:
    """x itself; in the first look the program shows which dummies belong to it."""
    return marked(plan.look, plan.name, x, dummies) if dummies else x
