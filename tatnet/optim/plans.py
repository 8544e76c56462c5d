"""From the uses of every layer to what its taps have to know, or why K-FAC cannot cover it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tatnet.optim.dummies import Plan, Seen, Tap
from tatnet.optim.layers import places_of
from tatnet.optim.rows import Lost
from tatnet.optim.taps import Observer
from tatnet.optim.uses import Look, Use, uses_in

Arrays = Mapping[str, jax.Array]
# Of a layer, an embedding and a normalisation: dummies that stand where the outputs are.
_AT_OUTPUTS = ("outputs", "scale", "offset")


class Plans(NamedTuple):
  """What a first look at a model has found.

  Attributes:
    taps: of the layers that can be covered, by name.
    problems: why others cannot, by name.
  """

  taps: dict[str, Tap]
  problems: dict[str, str]


def plan_taps(
  apply: Callable[[Any, dict[str, Tap], Any], Any],
  params: Any,
  dummies: Mapping[str, Arrays],
  inputs: Any,
  observer: Observer,
) -> Plans:
  """Looks at a model once.

  Args:
    apply: the model, as a function of parameters, taps and inputs.
    params: parameters.
    dummies: of layers that run once on an example.
    inputs: arrays, batch first.
    observer: of the network.
  """
  look = Look()

  def first_look(params, dummies, inputs):
    taps = {name: Tap(dict(d), Plan(name=name, look=look)) for name, d in dummies.items()}
    return apply(params, taps, inputs)

  uses = uses_in(first_look, params, dummies, inputs, observer.batch)
  found: dict[str, dict[str, list[Use]]] = {name: {} for name in dummies}
  for i, (name, key) in enumerate(_leaves(dummies)):
    found[name][key] = uses.dummies.get(i, [])
  places = places_of(params)
  tables = {place.layer for place in places if place.name == "embeddings"}
  weights = {
    place.layer: uses.weights.get(i, 0)
    for i, place in enumerate(places)
    if place.name in ("w", "embeddings")
  }
  taps, problems = {}, {}
  for name, own in found.items():
    reason = _reason(name, own, look, weights.get(name, 0), is_table=name in tables)
    if reason is not None:
      problems[name] = reason
    else:
      taps[name] = _tap(name, own, dummies[name], look, observer, is_table=name in tables)
  return Plans(taps, problems)


def finished(tap: Tap, cotangents: Arrays, observer: Observer) -> dict[str, jax.Array]:
  """A layer's factors from the cotangents of its dummies."""
  if not tap.plan.is_reused:
    return dict(cotangents)
  if "uses" not in cotangents:  # a normalisation: the examples' own gradients
    axes = {own.name: cotangents[own.name].ndim - len(own.dummy) for own in tap.plan.seen}
    return {key: jnp.square(a).sum(axes[key]) / observer.batch for key, a in cotangents.items()}
  uses = jnp.maximum(cotangents["uses"], 1)
  inputs, outputs = cotangents["inputs"], cotangents["outputs"]
  if not tap.plan.is_summed:
    axes = tuple(range(uses.ndim, outputs.ndim))
    return {"inputs": inputs, "outputs": outputs / jnp.expand_dims(uses, axes)}
  rows = {"inputs": inputs / uses[..., None, None], "outputs": outputs}
  return {
    side: (_squares if side in tap.plan.diagonal else _moment)(own, observer.batch)
    for side, own in rows.items()
  }


def _moment(rows: jax.Array, batch: int) -> jax.Array:
  return jnp.einsum("...bi,...bj->...ij", rows, rows) / batch


def _squares(rows: jax.Array, batch: int) -> jax.Array:
  return jnp.square(rows).sum(-2) / batch


def _tap(
  name: str,
  uses: Mapping[str, list[Use]],
  dummies: Arrays,
  look: Look,
  observer: Observer,
  *,
  is_table: bool,
) -> Tap:
  """Dummies and plan of a layer that can be covered."""
  is_reused = any(len(own) > 1 or own[0].is_repeated for own in uses.values())
  is_summed = is_reused and observer.sharing == "reduce" and not is_table
  places = {key: own[0].where for key, own in uses.items()}
  outputs = next(places[key] for key in _AT_OUTPUTS if key in places)
  arrays, seen = {}, []
  for key, dummy in dummies.items():
    use = uses[key][0]
    stack, own = dummy.shape[: len(dummy.shape) - len(use.dummy)], use.dummy
    if is_reused and key in ("scale", "offset"):
      own = (observer.batch, *own)
    elif is_summed:
      own = (observer.batch, own[-1])
    arrays[key] = jnp.zeros((*stack, *own), dummy.dtype)
    seen.append(Seen(key, len(use.shape), own))
    if is_reused and key == "outputs":
      arrays["uses"] = jnp.zeros(stack, dummy.dtype)
      seen.append(Seen("uses", len(use.shape), ()))
  plan = Plan(
    inputs=places.get("inputs"),
    outputs=outputs,
    is_reused=is_reused,
    is_summed=is_summed,
    diagonal=tuple(key for key, own in uses.items() if len(own[0].dummy) == 1),
    is_vmapped=name in look.vmapped,
    seen=tuple(seen),
    name=name,
  )
  return Tap(arrays, plan)


def _reason(
  name: str, uses: Mapping[str, list[Use]], look: Look, operations: int, *, is_table: bool
) -> str | None:
  """Why the factors of a layer would not be its curvature."""
  if name in look.differentiated:
    return "is used under a derivative inside the model (grad, vjp or jvp)"
  if name in look.vmapped_weights:
    return "is called inside a vmap over its weights"
  if not all(uses.values()):
    return "does not use its taps"
  # Every use of a layer is one operation with its weight.
  if "inputs" in uses and operations > len(uses["inputs"]):
    kind = "table" if is_table else "weight"
    return f"has a {kind} that is used elsewhere too"
  for own in uses.values():
    for use in own:
      if isinstance(use.where, Lost):
        return f"sees an array of shape {use.shape} that {use.where.value}"
    if any(use.where != own[0].where for use in own):
      return "sees the examples in other places of an array each time"
    if name in look.vmapped and len({len(use.shape) for use in own}) > 1:
      return "is called inside vmap and outside of it"
  return None


def _leaves(tree: Mapping[str, Arrays]) -> Iterator[tuple[str, str]]:
  """Layer and name of every leaf, in their order."""
  for path, _ in jax.tree.leaves_with_path(tree):
    yield path[0].key, path[1].key
