"""How a model uses its layers, read from its program without running it.

In a first look every tap is a mark, a call of its own in the program (`marked`). From
the program follows for each layer how often and where it is used: in a loop, on rows of
which kind, under a derivative inside the model, or with its weight elsewhere too.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from tatnet.optim.rows import Lost, Operation, Rows, Where, joined, rows_after, split_rows


@dataclasses.dataclass(eq=False)
class Look:
  """What can be seen only while a model is being traced; compared by identity.

  Attributes:
    differentiated: layers that a derivative inside the model passes through.
    vmapped: layers inside a vmap over their inputs.
    vmapped_weights: layers inside a vmap over their weights.
  """

  differentiated: set[str] = dataclasses.field(default_factory=set)
  vmapped: set[str] = dataclasses.field(default_factory=set)
  vmapped_weights: set[str] = dataclasses.field(default_factory=set)


def _kfac_mark(x: jax.Array, dummies: Any) -> jax.Array:  # noqa: ARG001 -- they are in the program
  return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def marked(look: Look, name: str, x: jax.Array, dummies: Mapping[str, jax.Array]) -> jax.Array:
  """x itself; the program shows that the layer's dummies belong to it."""

  @jax.custom_batching.custom_vmap
  def mark(x, dummies):
    return jax.jit(_kfac_mark)(x, dummies)

  @mark.def_vmap
  def _all_rows(axis_size, in_batched, x, dummies):
    del axis_size
    look.vmapped.add(name)
    if any(jax.tree.leaves(in_batched[1])):
      look.vmapped_weights.add(name)
    return mark(x, dummies), in_batched[0]

  return mark(x, dummies)


@marked.defjvp
def _marked_derivative(look, name, primals, tangents):
  # The first look itself is not differentiated.
  look.differentiated.add(name)
  return marked(look, name, *primals), tangents[0]


class Use(NamedTuple):
  """One place where a dummy stands.

  Attributes:
    where: the examples in what the tap sees.
    shape: of what the tap sees.
    dummy: shape of the dummy there: of one layer of a stack.
    is_repeated: whether a loop around it runs it many times on the same dummy.
  """

  where: Where
  shape: tuple[int, ...]
  dummy: tuple[int, ...]
  is_repeated: bool


class Uses(NamedTuple):
  """All uses in a program.

  Attributes:
    dummies: for each dummy, by its number among the leaves.
    weights: how many operations each parameter enters, by its number among the leaves.
  """

  dummies: dict[int, list[Use]]
  weights: dict[int, int]


class _Value(NamedTuple):
  """What is known of an array of the program."""

  where: Where = Lost.NONE
  dummies: frozenset[tuple[int, bool]] = frozenset()  # number, whether a loop repeats it
  weights: frozenset[int] = frozenset()


def uses_in(
  function: Callable[..., Any], params: Any, dummies: Any, inputs: Any, batch: int
) -> Uses:
  """Traces ``function(params, dummies, inputs)`` and reads its program."""
  closed = jax.make_jaxpr(function)(params, dummies, inputs)
  values = [_Value(weights=frozenset([i])) for i, _ in enumerate(jax.tree.leaves(params))]
  values += [
    _Value(dummies=frozenset([(i, False)])) for i, _ in enumerate(jax.tree.leaves(dummies))
  ]
  values += [_Value(where=Rows() if leaf.ndim else Lost.NONE) for leaf in jax.tree.leaves(inputs)]
  reader = _Reader(batch)
  reader.run(closed, values, records=True)
  return Uses(reader.dummies, reader.weights)


# What changes the form of a weight is not yet its use.
_FORMS = frozenset(
  {
    "reshape",
    "transpose",
    "convert_element_type",
    "broadcast_in_dim",
    "squeeze",
    "slice",
    "dynamic_slice",
    "copy",
    "reduce_precision",
    "sharding_constraint",
    "pvary",
    "reshard",
    "optimization_barrier",
    "split",
  }
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")


class _Reader:
  def __init__(self, batch: int):
    self.batch = batch
    self.dummies: dict[int, list[Use]] = collections.defaultdict(list)
    self.weights: dict[int, int] = collections.defaultdict(int)

  def run(self, closed: Any, inputs: Sequence[_Value], records: bool) -> list[_Value]:
    """Values of the results; notes uses on the way, unless a loop is still being followed."""
    jaxpr = getattr(closed, "jaxpr", closed)
    known: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom) -> _Value:
      return _Value() if hasattr(atom, "val") else known.get(atom, _Value())

    for equation in jaxpr.eqns:
      results = self._equation(equation, [read(atom) for atom in equation.invars], records)
      known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _equation(self, equation: Any, inputs: list[_Value], records: bool) -> list[_Value]:
    name, params = equation.primitive.name, equation.params
    if params.get("name") == _kfac_mark.__name__:
      if records:
        self._note(equation, inputs)
      return inputs[:1]
    if name == "scan":
      return self._scan(equation, inputs, records)
    if name == "while":
      return self._while(equation, inputs, records)
    if name == "cond":
      return self._branches(params["branches"], inputs[1:], records)
    body = next((params[key] for key in _BODIES if hasattr(_open(params.get(key)), "eqns")), None)
    if body is not None and len(_open(body).invars) == len(inputs):  # and not a kernel's program
      return self.run(body, inputs, records)
    return self._operation(equation, inputs, records)

  def _operation(self, equation: Any, inputs: list[_Value], records: bool) -> list[_Value]:
    operation = Operation(
      equation.primitive.name,
      equation.params,
      [_shape(atom) for atom in equation.invars],
      [_shape(var) for var in equation.outvars],
      self.batch,
    )
    found = [value.where for value in inputs]
    if operation.name == "split":
      places = split_rows(operation, found[0])
    else:
      places = rows_after(operation, found)
    dummies = frozenset().union(*(value.dummies for value in inputs))
    weights = frozenset().union(*(value.weights for value in inputs))
    if operation.name not in _FORMS:
      if records:
        for weight in weights:
          self.weights[weight] += 1
      weights = frozenset()
    return [_Value(where, dummies, weights) for where in places]

  def _note(self, equation: Any, inputs: Sequence[_Value]) -> None:
    shapes = [_shape(atom) for atom in equation.invars]
    for value, shape in zip(inputs[1:], shapes[1:], strict=True):
      for number, is_repeated in value.dummies:
        self.dummies[number].append(Use(inputs[0].where, shapes[0], shape, is_repeated))

  def _scan(self, equation: Any, inputs: list[_Value], records: bool) -> list[_Value]:
    body, length = equation.params["jaxpr"], equation.params["length"]
    # Releases of JAX count the operands differently; the body's ranks tell them apart:
    # what is scanned over loses its leading axis.
    inner = _open(body)
    scanned = _of_other_rank(inner.invars, equation.invars)
    carried = len(inner.outvars) - _of_other_rank(inner.outvars, equation.outvars)
    fixed = len(inputs) - carried - scanned
    constants = [_repeated(value) if length > 1 else value for value in inputs[:fixed]]
    slices = [_turn(value) for value in inputs[fixed + carried :]]
    state = self._followed(
      lambda state, records: self.run(body, [*constants, *state, *slices], records)[:carried],
      inputs[fixed : fixed + carried],
    )
    results = self.run(body, [*constants, *state, *slices], records)
    return [*results[:carried], *(_stacked(value) for value in results[carried:])]

  def _while(self, equation: Any, inputs: list[_Value], records: bool) -> list[_Value]:
    skipped, fixed = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    body = equation.params["body_jaxpr"]
    constants = [_repeated(value) for value in inputs[skipped : skipped + fixed]]
    state = self._followed(
      lambda state, records: self.run(body, [*constants, *state], records),
      inputs[skipped + fixed :],
    )
    return self.run(body, [*constants, *state], records)

  def _followed(self, turn: Callable, state: list[_Value]) -> list[_Value]:
    """What holds of a loop's state before every turn."""
    while True:
      after = turn(state, False)
      both = [_either(a, b) for a, b in zip(state, after, strict=True)]
      if both == state:
        return state
      state = both

  def _branches(self, branches: Any, inputs: list[_Value], records: bool) -> list[_Value]:
    # A layer that is used in several branches is used in one of them only.
    before = dict(self.weights), {k: list(v) for k, v in self.dummies.items()}
    results, most = [], []
    for branch in branches:
      self.weights, self.dummies = collections.defaultdict(int), collections.defaultdict(list)
      results.append(self.run(branch, inputs, records))
      most.append((self.weights, self.dummies))
    self.weights = collections.defaultdict(int, before[0])
    self.dummies = collections.defaultdict(list, before[1])
    for number in {key for weights, _ in most for key in weights}:
      self.weights[number] += max(weights[number] for weights, _ in most)
    for number in {key for _, dummies in most for key in dummies}:
      self.dummies[number] += max((dummies[number] for _, dummies in most), key=len)
    return [functools.reduce(_either, values) for values in zip(*results, strict=True)]


def _open(closed: Any) -> Any:
  return getattr(closed, "jaxpr", closed)


def _shape(atom: Any) -> tuple[int, ...]:
  return tuple(getattr(atom.aval, "shape", ()))


def _of_other_rank(inner: Sequence[Any], outer: Sequence[Any]) -> int:
  return sum(len(_shape(a)) != len(_shape(b)) for a, b in zip(inner, outer, strict=True))


def _repeated(value: _Value) -> _Value:
  return value._replace(dummies=frozenset((number, True) for number, _ in value.dummies))


def _turn(value: _Value) -> _Value:
  """One turn's part of what a loop scans over."""
  where = value.where
  if isinstance(where, Rows):
    # A turn that sees one example sees no batch.
    where = dataclasses.replace(where, axis=where.axis - 1) if where.axis else Lost.MIXED
  return value._replace(where=where)


def _stacked(value: _Value) -> _Value:
  where = value.where
  if isinstance(where, Rows):
    where = dataclasses.replace(where, axis=where.axis + 1)
  return value._replace(where=where)


def _either(a: _Value, b: _Value) -> _Value:
  return _Value(joined(a.where, b.where), a.dummies | b.dummies, a.weights | b.weights)
