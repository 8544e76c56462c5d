"""`token_report`: q and cosines of tokens behind the attention and the blocks of any transformer."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tatnet.attention.checks import check_count
from tatnet.attention.schedule import AttentionSchedule
from tatnet.attention.uniform import UniformLayer
from tatnet.diagnostics.tokens.diagonal import diagonal_of

COLLAPSED = 0.99  # mean cosine of tokens, from which on they are one
_ATTENTION = re.compile(r"attention(_\d+)?$")


@dataclasses.dataclass(frozen=True)
class TokenLayer:
  """Tokens behind one module: what `token_report` makes one of for each.

  Attributes:
    where: the Haiku module.
    q: mean q value of the tokens, over random networks and inputs.
    q_spread: of the mean q from network to network, its standard deviation.
    q_last: mean q of the last token over that of the first.
    cosine: mean cosine of two tokens of one sequence.
    planned: the cosine that the schedule predicts there; None where it says nothing.
    diagonal: mean weight with which a token reads itself, behind attention; None elsewhere, and
      where the module has no weights under the usual names.
    condition: largest over smallest singular value of ``W_V W_O``, of the worst network; None
      behind modules that have no such weights.
  """

  where: str
  q: float
  q_spread: float
  q_last: float
  cosine: float
  planned: float | None = None
  diagonal: float | None = None
  condition: float | None = None


@dataclasses.dataclass(frozen=True)
class TokenReport:
  """Tokens layer by layer; `token_report` makes it. Printed, it is a table.

  Attributes:
    layers: in the order of the signal.
    seeds: number of random networks.
  """

  layers: tuple[TokenLayer, ...]
  seeds: int

  @property
  def collapse(self) -> str | None:
    """The first module behind which tokens are one (mean cosine of 0.99), or None."""
    return next((layer.where for layer in self.layers if layer.cosine > COLLAPSED), None)

  def __str__(self) -> str:
    width = max(len(layer.where) for layer in self.layers)
    head = (
      f"{'':{width}}  {'q':>14} {'last/first':>10} {'cosine':>7} {'planned':>8} {'diagonal':>8}"
      f" {'cond V O':>9}"
    )
    lines = [head]
    for layer in self.layers:
      planned = "" if layer.planned is None else f"{layer.planned:.4f}"
      diagonal = "" if layer.diagonal is None else f"{layer.diagonal:.4f}"
      condition = "" if layer.condition is None else f"{layer.condition:.3g}"
      lines.append(
        f"{layer.where:{width}}  {layer.q:6.3f} +- {layer.q_spread:4.2f} {layer.q_last:10.3f}"
        f" {layer.cosine:7.4f} {planned:>8} {diagonal:>8} {condition:>9}"
      )
    said = "tokens stay apart" if self.collapse is None else f"rank collapse behind {self.collapse}"
    return "\n".join([*lines, f"{said} ({self.seeds} random networks)"])


def token_report(
  forward: Callable[..., Any],
  inputs: jax.Array,
  *,
  schedule: AttentionSchedule | None = None,
  modules: str = r"attention(_\d+)?$|block_\d+$",
  seeds: int = 4,
) -> TokenReport:
  """Runs random networks and looks at the tokens behind attention and blocks.

  It takes any transformer in Haiku, with shortcuts and normalisation too.

  Args:
    forward: an untransformed Haiku function of the inputs.
    inputs: a batch as the network takes it.
    schedule: how attention was planned, for the predicted cosines behind the modules that are
      called attention, if there are as many as it has layers, and in front of them.
    modules: regular expression for the paths of the modules that are looked at: those whose output
      (or its first part) is an array [batch, tokens, width].
    seeds: number of random networks.

  Returns:
    A `TokenReport`.

  Raises:
    TypeError: seeds is no integer, or forward no function.
    ValueError: no module fits, fewer than two tokens, or seeds below 1.

  Example:
    >>> network = tatnet.nets.create(
    ...   "transformer", 9, depth=2, width=32, heads=2, context=6, method=tatnet.TAT(0.3)
    ... )
    >>> report = tatnet.diagnostics.token_report(
    ...   lambda ids: network.forward(ids, network.activation),
    ...   jnp.arange(6)[None],
    ...   schedule=network.options["attention"],
    ... )
    >>> len(report.layers), report.collapse
    (4, None)
  """
  if not callable(forward) or hasattr(forward, "init"):
    raise TypeError(f"token_report got {forward!r}; expected the function before hk.transform.")
  seeds = check_count("token_report", "seeds", seeds)
  pattern = re.compile(modules)
  places: list[str] = []

  def recorded(x):
    found: dict[str, jax.Array] = {}
    diagonals: dict[str, jax.Array] = {}

    def record(next_f, args, kwargs, context):
      out = next_f(*args, **kwargs)
      first = out[0] if isinstance(out, tuple) else out
      name = context.module.module_name
      is_new = context.method_name == "__call__" and name not in found
      if is_new and pattern.search(name) and jnp.ndim(first) == 3:
        found[name] = first.astype(jnp.float32)
        if _ATTENTION.search(name) and not hk.running_init():
          diagonals[name] = diagonal_of(lambda: context.module(*args, **kwargs), name)
      return out

    with hk.intercept_methods(record):
      forward(x)
    places[:] = found
    known = {name: value for name, value in diagonals.items() if value is not None}
    return [_kernel(value) for value in found.values()], known

  network = hk.transform_with_state(recorded)

  @jax.jit
  def run(key):
    params, state = network.init(key, inputs)
    (kernels, diagonals), _ = network.apply(params, state, key, inputs)
    return kernels, diagonals, {name: _product(params, name) for name in places}

  results = [jax.device_get(run(key)) for key in jax.random.split(jax.random.key(0), seeds)]
  if not places or results[0][0][0].shape[-1] < 2:
    raise ValueError(
      f"token_report found the modules {places} with outputs [batch, tokens, width] of two tokens or more"
      f" for modules={modules!r}; expected at least one. Give a regular expression for their paths."
    )
  planned = _planned(places, schedule)
  layers = []
  for number, place in enumerate(places):
    kernels = np.stack([kernels[number] for kernels, _, _ in results]).astype(np.float64)
    diagonals = [found.get(place) for _, found, _ in results]
    products = [found[place] for _, _, found in results if found[place] is not None]
    layers.append(_layer(place, kernels, planned.get(place), diagonals, products))
  return TokenReport(tuple(layers), seeds)


def _kernel(x: jax.Array) -> jax.Array:
  return jnp.einsum("bid,bjd->bij", x, x, precision="highest") / x.shape[-1]


def _product(params: Any, place: str) -> jax.Array | None:
  """``W_V W_O`` of an attention module, where it has weights under the usual names."""
  value, output = (
    next((params[f"{place}/{n}"]["w"] for n in names if f"{place}/{n}" in params), None)
    for names in (("value",), ("output", "linear"))
  )
  fits = value is not None and output is not None and value.shape[1] == output.shape[0]
  return value @ output if fits else None


def _planned(places: Sequence[str], schedule: AttentionSchedule | None) -> dict[str, float]:
  attention = [n for n, place in enumerate(places) if _ATTENTION.search(place)]
  if schedule is None or len(attention) != len(schedule):
    return {}
  found = {places[n]: schedule.kernel(layer) for layer, n in enumerate(attention)}
  for layer, n in zip(schedule.layers[1:], attention[1:], strict=True):
    if isinstance(layer, UniformLayer):  # what the block before it leaves
      found.setdefault(places[n - 1], layer.before)
  return found


def _layer(
  place: str,
  kernels: np.ndarray,
  planned: float | None,
  diagonals: Sequence[np.ndarray | None],
  products: Sequence[np.ndarray],
) -> TokenLayer:
  q = np.diagonal(kernels, axis1=-2, axis2=-1)  # [seeds, batch, tokens]
  tokens = q.shape[-1]
  sizes = np.sqrt(np.maximum(q, 1e-30))
  cosines = kernels / (sizes[..., :, None] * sizes[..., None, :])
  conditions = [float(np.linalg.cond(product)) for product in products]
  return TokenLayer(
    place,
    float(q.mean()),
    float(q.mean((1, 2)).std()),
    float(q[..., -1].mean() / max(q[..., 0].mean(), 1e-30)),
    float(cosines[..., ~np.eye(tokens, dtype=bool)].mean()),
    planned,
    None if None in diagonals else float(np.mean(diagonals)),
    max(conditions) if conditions and math.isfinite(max(conditions)) else None,
  )
