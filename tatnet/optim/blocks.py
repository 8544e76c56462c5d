"""Blocks of the curvature matrix: what is kept for a layer, and how it acts on gradients."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from tatnet.optim.inverses import Damped
from tatnet.optim.symmetric import diagonal, inverse_of, moved

Uncovered = Literal["error", "identity"]
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class KroneckerBlock:
  """A dense layer or a convolution: inputs' moment times outputs' moment.

  Attributes:
    name: path of the layer in the parameters.
    weight: shape of the weight, without the axis of stacked layers.
    with_bias: whether a bias is folded into the inputs.
    layers: number of stacked layers; None for a single one.
  """

  name: str
  weight: tuple[int, ...]
  with_bias: bool
  layers: int | None

  @property
  def _stack(self) -> tuple[int, ...]:
    return () if self.layers is None else (self.layers,)

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    inputs = math.prod(self.weight[:-1]) + self.with_bias
    outputs = self.weight[-1]
    return {
      "inputs": (*self._stack, inputs, inputs),
      "outputs": (*self._stack, outputs, outputs),
    }

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero and inverses of zero, packed."""
    return {
      side: jnp.zeros((*shape[:-1], shape[-1] + 1), dtype)
      for side, shape in self.statistics().items()
    }

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """Of the factors; these are finite if their diagonals are, which hold the largest entries."""
    return [diagonal(factor) for factor in factors.values()]

  def averaged(self, state: Arrays, factors: Arrays, rate) -> dict[str, jax.Array]:
    """Averages moved towards new factors; inverses stay."""
    return {side: moved(packed, factors[side], rate) for side, packed in state.items()}

  def damped(self, state: Arrays, damping) -> dict[str, Damped]:
    """The averages, and what is added to them before they are inverted.

    The damping is split so that both sides change in proportion to their size:
    ``A + pi sqrt(damping)`` and ``G + sqrt(damping) / pi``, where pi^2 is the ratio
    of their mean eigenvalues (Martens & Grosse, arXiv 1503.05671, Section 6.3).
    """
    a, g = (_mean_eigenvalue(state[side]) for side in ("inputs", "outputs"))
    tiny = jnp.finfo(a.dtype).tiny
    # Two roots: the ratio itself overflows where the gradients are zero. No average
    # has a mean below zero; one that does turns both inverses into NaN.
    pi = jnp.sqrt(a + tiny) / jnp.sqrt(g + tiny)
    root = jnp.sqrt(damping).astype(a.dtype)
    return {
      "inputs": Damped(state["inputs"], root * pi),
      "outputs": Damped(state["outputs"], root / pi),
    }

  def precondition(self, state: Arrays, gradients: Arrays, damping) -> dict[str, jax.Array]:
    """``A^-1 V G^-1`` for the gradient as a matrix V ``[inputs, outputs]``."""
    del damping  # it is in the inverses
    w = gradients["w"]
    a, g = (inverse_of(state[side]) for side in ("inputs", "outputs"))
    v = w.reshape(*self._stack, -1, self.weight[-1]).astype(a.dtype)
    result = {}
    if self.with_bias:
      # The last row of V. Kept apart: fewer kernels to compile, and products of even sizes.
      b = gradients["b"]
      last = b[..., None, :].astype(a.dtype)
      v, last = (
        rows[..., :-1] @ v + rows[..., -1:] * last for rows in (a[..., :-1, :], a[..., -1:, :])
      )
      result["b"] = (last @ g)[..., 0, :].astype(b.dtype)
    else:
      v = a @ v
    return result | {"w": (v @ g).reshape(w.shape).astype(w.dtype)}


@dataclasses.dataclass(frozen=True)
class DiagonalBlock:
  """Scales and offsets: the diagonal of the Fisher matrix."""

  name: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    return dict(self.shapes)

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero."""
    return {key: jnp.zeros(shape, dtype) for key, shape in self.shapes}

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """The factors, which are diagonals."""
    return list(factors.values())

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
      key: (gradient / (state[key] + damping)).astype(gradient.dtype)
      for key, gradient in gradients.items()
    }


@dataclasses.dataclass(frozen=True)
class EmbeddingBlock:
  """A table of embeddings: frequencies of the rows times outputs' moment."""

  name: str
  table: tuple[int, int]

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    rows, width = self.table
    return {"inputs": (rows,), "outputs": (width, width)}

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero and an inverse of zero."""
    rows, width = self.table
    return {"inputs": jnp.zeros(rows, dtype), "outputs": jnp.zeros((width, width + 1), dtype)}

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """The frequencies, and the diagonal of the outputs' moment."""
    return [factors["inputs"], diagonal(factors["outputs"])]

  def averaged(self, state: Arrays, factors: Arrays, rate) -> dict[str, jax.Array]:
    """Averages moved towards new factors; the inverse stays."""
    return {
      "inputs": state["inputs"] + rate * (factors["inputs"] - state["inputs"]),
      "outputs": moved(state["outputs"], factors["outputs"], rate),
    }

  def damped(self, state: Arrays, damping) -> dict[str, Damped]:
    """The outputs' moment, and what is added to it before it is inverted."""
    root = jnp.sqrt(damping).astype(state["outputs"].dtype)
    return {"outputs": Damped(state["outputs"], root / self._pi(state))}

  def precondition(self, state: Arrays, gradients: Arrays, damping) -> dict[str, jax.Array]:
    """Rows divided by their damped frequency, times the inverse of the outputs' moment."""
    gradient = gradients["embeddings"]
    scale = state["inputs"] + jnp.sqrt(damping) * self._pi(state)
    result = gradient / scale[:, None] @ inverse_of(state["outputs"])
    return {"embeddings": result.astype(gradient.dtype)}

  def _pi(self, state: Arrays) -> jax.Array:
    tiny = jnp.finfo(state["inputs"].dtype).tiny
    outputs = _mean_eigenvalue(state["outputs"])
    return jnp.sqrt(state["inputs"].mean() + tiny) / jnp.sqrt(outputs + tiny)


Block = KroneckerBlock | DiagonalBlock | EmbeddingBlock


def _mean_eigenvalue(packed: jax.Array) -> jax.Array:
  return diagonal(packed).mean(-1)


def blocks_of(params: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Block], list[str]]:
  """Blocks for parameters laid out as Haiku's, and the names of those that have none.

  ``{"w", "b"}`` is a layer; with a bias of more than one axis, or without bias under
  a path with "layer_stack", a stack of layers. ``{"scale", "offset"}`` belong to a
  normalisation, ``{"embeddings"}`` is a table.
  """
  blocks: dict[str, Block] = {}
  uncovered: list[str] = []
  if not _is_by_layer(params):
    raise TypeError(
      "K-FAC got parameters that are not laid out as {layer: {name: array}}; expected Haiku's"
      " parameters, or a dictionary of layers whose arrays are called 'w' and 'b', 'scale' and"
      f" 'offset', or 'embeddings'. Given: {jax.tree.structure(params)}."
    )
  for name, arrays in params.items():
    if _is_masked(arrays):
      continue
    shapes = {key: tuple(a.shape) for key, a in arrays.items() if not _is_masked(a)}
    if "w" in shapes and set(shapes) <= {"w", "b"} and len(shapes["w"]) >= 2:
      is_named_stack = "layer_stack" in name and len(shapes["w"]) > 2
      is_stacked = len(shapes["b"]) > 1 if "b" in shapes else is_named_stack
      layers = shapes["w"][0] if is_stacked else None
      blocks[name] = KroneckerBlock(name, shapes["w"][is_stacked:], "b" in shapes, layers)
    elif shapes and set(shapes) <= {"scale", "offset"}:
      blocks[name] = DiagonalBlock(name, tuple(shapes.items()))
    elif set(shapes) == {"embeddings"} and len(shapes["embeddings"]) == 2:
      blocks[name] = EmbeddingBlock(name, shapes["embeddings"])
    elif shapes:
      uncovered.extend(f"{name}/{key}" for key in shapes)
  return blocks, uncovered


def check_uncovered(uncovered: str) -> None:
  """Raises ValueError unless it is one of the choices."""
  if uncovered not in get_args(Uncovered):
    raise ValueError(f"uncovered={uncovered!r}; expected 'error' or 'identity'.")


def _is_masked(entry: Any) -> bool:
  """Whether optax.partition or optax.masked keeps it for another optimiser."""
  return isinstance(entry, optax.MaskedNode)


def _is_by_layer(params: Any) -> bool:
  """Whether the parameters are ``{layer: {name: array}}``."""
  return isinstance(params, Mapping) and all(
    _is_masked(arrays)
    or (
      isinstance(arrays, Mapping)
      and all(hasattr(a, "shape") or _is_masked(a) for a in arrays.values())
    )
    for arrays in params.values()
  )
