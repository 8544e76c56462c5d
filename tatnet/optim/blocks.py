"""Blocks of the curvature matrix: what is kept for a layer, and how it acts on gradients."""

import dataclasses
import math
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


@dataclasses.dataclass(frozen=True)
class KroneckerBlock:
  """A dense layer or a convolution: inputs' moment times outputs' moment.

  Attributes:
    name: path of the layer in the parameters.
    weight: shape of the weight, without the axis of stacked layers.
    with_bias: whether a bias is folded into the inputs.
    layers: number of stacked layers; None for a single one.
    frozen: "w" or "b" where another optimiser has that one; a weight then has no inputs.
  """

  name: str
  weight: tuple[int, ...]
  with_bias: bool
  layers: int | None
  frozen: str | None = None

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

  def own(self, factors: Arrays) -> Arrays:
    """What the factors of the whole layer say about what is not frozen."""
    if self.frozen is None:
      return factors
    kept = slice(-1, None) if self.frozen == "w" else slice(None, -1)
    return {**factors, "inputs": factors["inputs"][..., kept, kept]}

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero and inverses of zero, packed."""
    return {
      side: jnp.zeros((*shape[:-1], shape[-1] + 1), dtype)
      for side, shape in self.statistics().items()
    }

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """Of the factors; these are finite if their diagonals are, which hold the largest entries."""
    return [diagonal(factor) for factor in factors.values()]

  def trace(self, state: Arrays) -> jax.Array:
    """Of the averaged curvature."""
    return jnp.sum(diagonal(state["inputs"]).sum(-1) * diagonal(state["outputs"]).sum(-1))

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
    a, g = (inverse_of(state[side]) for side in ("inputs", "outputs"))
    if self.frozen == "w":
      b = gradients["b"]
      return {
        "b": (a[..., 0, :] * (b[..., None, :].astype(a.dtype) @ g)[..., 0, :]).astype(b.dtype)
      }
    w = gradients["w"]
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


@dataclasses.dataclass(frozen=True)
class EmbeddingBlock:
  """A table of embeddings: frequencies of the rows times outputs' moment."""

  name: str
  table: tuple[int, int]

  def statistics(self) -> dict[str, tuple[int, ...]]:
    """Shapes of the factors."""
    rows, width = self.table
    return {"inputs": (rows,), "outputs": (width, width)}

  def own(self, factors: Arrays) -> Arrays:
    """All of them: a table is trained as a whole."""
    return factors

  def initial(self, dtype) -> dict[str, jax.Array]:
    """Averages of zero and an inverse of zero."""
    rows, width = self.table
    return {"inputs": jnp.zeros(rows, dtype), "outputs": jnp.zeros((width, width + 1), dtype)}

  def diagonals(self, factors: Arrays) -> list[jax.Array]:
    """The frequencies, and the diagonal of the outputs' moment."""
    return [factors["inputs"], diagonal(factors["outputs"])]

  def trace(self, state: Arrays) -> jax.Array:
    """Of the averaged curvature."""
    return state["inputs"].sum() * diagonal(state["outputs"]).sum()

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


def blocks_of(layers: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Block], list[str]]:
  """Blocks of the layers that `as_layers` returns, and the names of arrays that have none.

  ``{"w", "b"}`` is a layer; with a bias of more than one axis, or without bias under
  a path with "layer_stack", a stack of layers. ``{"scale", "offset"}`` belong to a
  normalisation, ``{"embeddings"}`` is a table. Where another optimiser has some of
  the arrays, the block is that of the others.
  """
  blocks: dict[str, Block] = {}
  uncovered: list[str] = []
  for name, arrays in layers.items():
    shapes = {key: tuple(a.shape) for key, a in arrays.items() if not is_masked(a)}
    if not shapes:
      continue
    if set(arrays) <= {"w", "b"} and ("w" not in shapes or len(shapes["w"]) >= 2):
      blocks[name] = _kronecker_block(name, arrays, shapes)
    elif set(arrays) <= {"scale", "offset"}:
      blocks[name] = DiagonalBlock(name, tuple(shapes.items()))
    elif set(arrays) == {"embeddings"} and len(shapes["embeddings"]) == 2:
      blocks[name] = EmbeddingBlock(name, shapes["embeddings"])
    else:
      uncovered.extend(f"{name}/{key}" for key in shapes)
  return blocks, uncovered


def _kronecker_block(name: str, arrays, shapes: Mapping[str, tuple[int, ...]]) -> KroneckerBlock:
  if "w" not in shapes:
    b = shapes["b"]
    # All inputs but the bias's 1 are another optimiser's.
    return KroneckerBlock(name, (0, b[-1]), True, b[0] if len(b) > 1 else None, "w")
  is_named_stack = "layer_stack" in name and len(shapes["w"]) > 2
  is_stacked = len(shapes["b"]) > 1 if "b" in shapes else is_named_stack
  layers = shapes["w"][0] if is_stacked else None
  frozen = "b" if "b" in arrays and "b" not in shapes else None
  return KroneckerBlock(name, shapes["w"][is_stacked:], "b" in shapes, layers, frozen)


def check_uncovered(uncovered: str) -> None:
  """Raises ValueError unless it is one of the choices."""
  if not isinstance(uncovered, str) or uncovered not in get_args(Uncovered):
    raise ValueError(f"uncovered={shown(uncovered)}; expected 'error' or 'identity'.")
