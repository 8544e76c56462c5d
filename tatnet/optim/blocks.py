"""Blocks of the curvature matrix: what is kept for a layer, and how it acts on gradients."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from tatnet.optim.inverses import Damped
from tatnet.optim.layers import is_masked
from tatnet.optim.settings import shown
from tatnet.optim.symmetric import diagonal, inverse_of, moved

Uncovered = Literal["error", "identity"]
Arrays = Mapping[str, jax.Array]
_SIDES = ("inputs", "outputs")
_SAME_OPTION = (
  "Pass uncovered='identity' to let their gradients pass unchanged, or give them to another"
  " optimiser by optax.partition."
)
_NOTHING_COVERED = "There is no layer for K-FAC: expected at least one that it knows."
DENSE_UP_TO = 5120  # above the 4608 inputs of the widest convolutions of a ResNet


@dataclasses.dataclass(frozen=True)
class KroneckerBlock:
  """A dense layer, a convolution or a table: inputs' moment times outputs' moment.

  Attributes:
    name: path of the layer in the parameters.
    weight: shape of the weight, without the axis of stacked layers.
    with_bias: whether a bias is folded into the inputs.
    layers: number of stacked layers; None for a single one.
    frozen: "w" or "b" where another optimiser has that one; a weight then has no inputs.
    diagonal: sides whose moment is kept as its diagonal: those that are too large, and
      the inputs of a table, which are one-hot vectors.
    key: of the weight, "w" or "embeddings".
  """

  name: str
  weight: tuple[int, ...]
  with_bias: bool
  layers: int | None
  frozen: str | None = None
  diagonal: tuple[str, ...] = ()
  key: str = "w"

  @property
  def _stack(self) -> tuple[int, ...]:
    return () if self.layers is None else (self.layers,)

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    inputs = math.prod(self.weight[:-1]) + self.with_bias
    sizes = {"inputs": inputs, "outputs": self.weight[-1]}
    return {
      side: (*self._stack, size) if side in self.diagonal else (*self._stack, size, size)
      for side, size in sizes.items()
    }

  def own(self, factors: Arrays) -> Arrays:
    """What the factors of the whole layer say about what is not frozen."""
    if self.frozen is None:
      return factors
    kept = slice(-1, None) if self.frozen == "w" else slice(None, -1)
    inputs = factors["inputs"][..., kept]
    if inputs.ndim == len(self.statistics()["inputs"]):
      inputs = inputs if "inputs" in self.diagonal else inputs[..., kept, :]
    else:  # only a diagonal is known of the layer; of one number that is all
      inputs = inputs[..., None]
    return {**factors, "inputs": inputs}

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero; beside those that are inverted, inverses of zero, packed."""
    return {
      side: jnp.zeros(shape if side in self.diagonal else (*shape[:-1], shape[-1] + 1), dtype)
      for side, shape in self.statistics().items()
    }

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """Of the factors; these are finite if their diagonals are, which hold the largest entries."""
    return [self._diagonal(factors, side) for side in factors]

  def trace(self, state: Arrays) -> jax.Array:
    """Of the averaged curvature."""
    a, g = (self._diagonal(state, side).sum(-1) for side in _SIDES)
    return jnp.sum(a * g)

  def averaged(self, state: Arrays, factors: Arrays, rate) -> dict[str, jax.Array]:
    """Averages moved towards new factors; inverses stay."""
    return {
      side: average + rate * (factors[side] - average)
      if side in self.diagonal
      else moved(average, factors[side], rate)
      for side, average in state.items()
    }

  def damped(self, state: Arrays, damping) -> dict[str, Damped]:
    """The averages, and what is added to them before they are inverted.

    The damping is split so that both sides change in proportion to their size:
    ``A + pi sqrt(damping)`` and ``G + sqrt(damping) / pi``, where pi^2 is the ratio
    of their mean eigenvalues (Martens & Grosse, arXiv 1503.05671, Section 6.3).
    A side that is a diagonal is only divided by, and not among them.
    """
    added = self._added(state, damping)
    return {side: Damped(state[side], added[side]) for side in _SIDES if side not in self.diagonal}

  def precondition(self, state: Arrays, gradients: Arrays, damping) -> dict[str, jax.Array]:
    """``A^-1 V G^-1`` for the gradient as a matrix V ``[inputs, outputs]``."""
    # The damping of a dense side is in its inverse.
    added = self._added(state, damping) if self.diagonal else {}
    a, g = (
      state[side] + added[side][..., None] if side in self.diagonal else inverse_of(state[side])
      for side in _SIDES
    )
    if self.frozen == "w":
      b = gradients["b"]
      last = a[..., 0, :] * self._over_outputs(b[..., None, :].astype(a.dtype), g)[..., 0, :]
      return {"b": last.astype(b.dtype)}
    w = gradients[self.key]
    v = w.reshape(*self._stack, -1, self.weight[-1]).astype(a.dtype)
    result = {}
    if self.with_bias:
      # The last row of V. Kept apart: fewer kernels to compile, and products of even sizes.
      b = gradients["b"]
      last = b[..., None, :].astype(a.dtype)
      if "inputs" in self.diagonal:
        v, last = v / a[..., :-1, None], last / a[..., -1:, None]
      else:
        v, last = (
          rows[..., :-1] @ v + rows[..., -1:] * last for rows in (a[..., :-1, :], a[..., -1:, :])
        )
      result["b"] = self._over_outputs(last, g)[..., 0, :].astype(b.dtype)
    else:
      v = v / a[..., None] if "inputs" in self.diagonal else a @ v
    return result | {self.key: self._over_outputs(v, g).reshape(w.shape).astype(w.dtype)}

  def _over_outputs(self, v: jax.Array, g: jax.Array) -> jax.Array:
    return v / g[..., None, :] if "outputs" in self.diagonal else v @ g

  def _diagonal(self, arrays: Arrays, side: str) -> jax.Array:
    return arrays[side] if side in self.diagonal else diagonal(arrays[side])

  def _added(self, state: Arrays, damping) -> dict[str, jax.Array]:
    """The damping of each side."""
    a, g = (self._diagonal(state, side).mean(-1) for side in _SIDES)
    tiny = jnp.finfo(a.dtype).tiny
    # Two roots: the ratio itself overflows where the gradients are zero. No average
    # has a mean below zero; one that does turns both inverses into NaN.
    pi = jnp.sqrt(a + tiny) / jnp.sqrt(g + tiny)
    root = jnp.sqrt(damping).astype(a.dtype)
    return {"inputs": root * pi, "outputs": root / pi}


@dataclasses.dataclass(frozen=True)
class DiagonalBlock:
  """Scales and offsets: the diagonal of the Fisher matrix."""

  name: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    return dict(self.shapes)

  def own(self, factors: Arrays) -> Arrays:
    """What the factors of the whole layer say about what is not frozen."""
    return {key: factors[key] for key, _ in self.shapes if key in factors}

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero."""
    return {key: jnp.zeros(shape, dtype) for key, shape in self.shapes}

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """The factors, which are diagonals."""
    return list(factors.values())

  def trace(self, state: Arrays) -> jax.Array:
    """Of the averaged curvature."""
    return sum(average.sum() for average in state.values())

  def averaged(self, state: Arrays, factors: Arrays, rate) -> dict[str, jax.Array]:
    """Averages moved towards new factors."""
    return {key: average + rate * (factors[key] - average) for key, average in state.items()}

  def damped(self, state: Arrays, damping) -> dict[str, Damped]:
    """Nothing: dividing is cheap."""
    del state, damping
    return {}

  def precondition(self, state: Arrays, gradients: Arrays, damping) -> dict[str, jax.Array]:
    """The gradient divided by the damped diagonal."""
    return {
      key: (gradients[key] / (average + damping)).astype(gradients[key].dtype)
      for key, average in state.items()
    }


Block = KroneckerBlock | DiagonalBlock


def is_dense(size: int, dense_up_to: int) -> bool:
  """Whether a side of a layer has a dense moment; the bias's 1 does not count."""
  return size <= dense_up_to


def blocks_of(
  layers: Mapping[str, Mapping[str, Any]], dense_up_to: int = DENSE_UP_TO
) -> tuple[dict[str, Block], list[str]]:
  """Blocks of the layers that `as_layers` returns, and the names of arrays that have none.

  ``{"w", "b"}`` is a layer; with a bias of more than one axis, or without bias under
  a path with "layer_stack", a stack of layers. ``{"scale", "offset"}`` belong to a
  normalisation, ``{"embeddings"}`` is a table. Where another optimiser has some of
  the arrays, the block is that of the others. Sides of more than `dense_up_to` are kept
  as diagonals.
  """
  blocks: dict[str, Block] = {}
  uncovered: list[str] = []
  for name, arrays in layers.items():
    shapes = {key: tuple(a.shape) for key, a in arrays.items() if not is_masked(a)}
    if not shapes:
      continue
    if set(arrays) <= {"w", "b"} and ("w" not in shapes or len(shapes["w"]) >= 2):
      blocks[name] = _kronecker_block(name, arrays, shapes, dense_up_to)
    elif set(arrays) <= {"scale", "offset"}:
      blocks[name] = DiagonalBlock(name, tuple(shapes.items()))
    elif set(arrays) == {"embeddings"} and len(shapes["embeddings"]) == 2:
      table = shapes["embeddings"]
      large = () if is_dense(table[-1], dense_up_to) else ("outputs",)
      blocks[name] = KroneckerBlock(
        name, table, False, None, diagonal=("inputs", *large), key="embeddings"
      )
    else:
      uncovered.extend(f"{name}/{key}" for key in shapes)
  return blocks, uncovered


def _kronecker_block(
  name: str, arrays, shapes: Mapping[str, tuple[int, ...]], dense_up_to: int
) -> KroneckerBlock:
  if "w" not in shapes:
    # All inputs but the bias's 1 are another optimiser's.
    weight, layers = (0, shapes["b"][-1]), shapes["b"][0] if len(shapes["b"]) > 1 else None
    frozen = "w"
  else:
    is_named_stack = "layer_stack" in name and len(shapes["w"]) > 2
    is_stacked = len(shapes["b"]) > 1 if "b" in shapes else is_named_stack
    weight, layers = shapes["w"][is_stacked:], shapes["w"][0] if is_stacked else None
    frozen = "b" if "b" in arrays and "b" not in shapes else None
  sizes = {"inputs": math.prod(weight[:-1]), "outputs": weight[-1]}
  large = tuple(side for side, size in sizes.items() if not is_dense(size, dense_up_to))
  return KroneckerBlock(name, weight, "b" in shapes, layers, frozen, large)


def covered_blocks(
  layers: Mapping[str, Mapping[str, Any]], dense_up_to: int, uncovered: Uncovered
) -> dict[str, Block]:
  """Blocks of all layers; raises for what is of no known layer unless it may pass."""
  covered, names = blocks_of(layers, dense_up_to)
  if names and (uncovered == "error" or not covered):
    listed = "\n".join(f"  {name}" for name in names)
    remedy = _SAME_OPTION if covered else _NOTHING_COVERED
    raise ValueError(f"K-FAC does not cover these parameters:\n{listed}\n{remedy}")
  return covered


def checked_limit(dense_up_to: Any) -> int:
  """The size up to which sides are dense; raises unless it is None or an integer."""
  if dense_up_to is None:
    return DENSE_UP_TO
  expected = f"an integer of at least 0, or None for {DENSE_UP_TO}"
  if not isinstance(dense_up_to, numbers.Integral) or isinstance(dense_up_to, bool):
    raise TypeError(
      f"dense_up_to={shown(dense_up_to)}; expected {expected}. It decides about shapes: give it to"
      " optax.inject_hyperparams among static_args."
    )
  if dense_up_to < 0:
    raise ValueError(f"dense_up_to={shown(dense_up_to)}; expected {expected}.")
  return int(dense_up_to)


def check_uncovered(uncovered: str) -> None:
  """Raises ValueError unless it is one of the choices."""
  if not isinstance(uncovered, str) or uncovered not in get_args(Uncovered):
    raise ValueError(f"uncovered={shown(uncovered)}; expected 'error' or 'identity'.")
