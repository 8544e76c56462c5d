"""Finding the parameters whose scale the loss ignores."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.diagnostics.dynamics.trees import layer_axes


def scale_invariant(
  loss: Callable[[Any], Any],
  params: Any,
  *,
  tolerance: float = 3e-2,
  jitter: float = 0.5,
  seed: int = 0,
) -> Any:
  r"""Which parameters are scale invariant: :math:`L(a W) = L(W)` for every a > 0.

  One parameter at a time is scaled, and the change of the loss compared with that
  by a random parameter of the same norm; see `scale_changes`. The quotient is about 1 for a
  parameter whose scale counts, and that of rounding and of the normalisation's epsilon,
  1e-6 to 1e-3 in float32, for one whose scale does not (1.4e-2 at the bottom of a
  ResNet-56 without shortcuts, which amplifies them). The cosine of gradient and
  parameter, which must be 0, is no such test: it is as small as 1e-3 by chance in a
  layer with a million weights, and exactly 0 where the parameter is 0.

  Args:
    loss: function of the parameters: the loss of a small batch with the normalisation
      in training mode. It may return any arrays; the network's outputs make
      the sharpest test. It is compiled once and run eight times per parameter.
    params: ``{module: {name: array}}``, or any tree of arrays.
    tolerance: quotient below which a parameter is scale invariant.
    jitter: standard deviation of noise on the parameters before the test, relative to
      each parameter. An offset of 0 at initialisation makes the scale before it invariant
      for that moment only: with noise such coincidences do not count. 0 tests
      the parameters as they are.
    seed: of the noise.

  Returns:
    A tree of bools like `params`, for `effective_learning_rates` and the transforms.
    False for parameters that have no influence, such as a bias before batch
    normalisation, and for those that are 0 throughout without jitter. Stacked layers
    (`hk.layer_stack`) are scaled one against the other and count only if all of them
    are invariant.

  Raises:
    ValueError: a loss that is not finite.

  Reference:
    Mehmeti-Goepel & Wand (arXiv 2306.00700), whose theory is of such parameters only.

  Example:
    >>> def loss(params):
    ...   unit = params["conv"]["w"] / jnp.linalg.norm(params["conv"]["w"])
    ...   return jnp.sum((unit - params["head"]["w"]) ** 2)
    >>> params = {"conv": {"w": jnp.array([1.0, 2.0])}, "head": {"w": jnp.array([0.5, 0.5])}}
    >>> tatnet.diagnostics.dynamics.scale_invariant(loss, params)
    {'conv': {'w': True}, 'head': {'w': False}}
  """
  changes = scale_changes(loss, params, jitter=jitter, seed=seed)
  return jax.tree.map(lambda change: bool(change < tolerance), changes)


def scale_changes(
  loss: Callable[[Any], Any],
  params: Any,
  *,
  jitter: float = 0.5,
  seed: int = 0,
) -> Any:
  r"""How much the scale of each parameter counts: the evidence behind `scale_invariant`.

  .. math::
     \sqrt{\sum\nolimits_{a \in \{2, 1/2\}} \|L(a W) - L(W)\|^2 \Big/
     \sum\nolimits_v \|L(v) - L(W)\|^2},

  v two random parameters at an angle of 45 degrees to W, and both sums over two draws of the
  noise. Factors that are powers of two scale floating-point numbers without
  rounding. The quotient needs no knowledge of the size of the loss, of the
  gradients, or of the network.

  Args:
    loss: as in `scale_invariant`.
    params: likewise.
    jitter: likewise.
    seed: likewise.

  Returns:
    A tree of floats like `params`; infinity for parameters whose influence is below
    rounding (the square root of the precision, relative to the loss).

  Raises:
    ValueError: a negative jitter, or a loss that is not finite.

  Example:
    >>> loss = lambda params: jnp.abs(params["w"]).sum() + 0.0 * params["unused"].sum()
    >>> params = {"w": jnp.ones(2), "unused": jnp.ones(2)}
    >>> changes = tatnet.diagnostics.dynamics.scale_changes(loss, params)
    >>> changes["w"] > 0.1, changes["unused"]
    (True, inf)
  """
  if not jitter >= 0:
    raise ValueError(f"jitter={jitter!r}; expected 0 or a positive number, such as 0.5.")
  flat, structure = jax.tree_util.tree_flatten_with_path(params)
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
  # In NumPy: no program is compiled for every shape.
  given = [np.asarray(leaf) for _, leaf in flat]
  rng = np.random.default_rng(seed)

  @jax.jit
  def outputs(leaves):
    result = loss(jax.tree_util.tree_unflatten(structure, leaves))
    return jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(result)])

  # Sums of squares, over draws of the noise.
  scaled, moved, total = np.zeros(len(given)), np.zeros(len(given)), 0.0
  for _ in range(2 if jitter else 1):
    leaves = [_jittered(leaf, jitter, rng) for leaf in given]
    base = np.asarray(outputs(leaves), np.float64)
    if not np.isfinite(base).all():
      raise ValueError(
        "scale_invariant got a loss that is not finite; expected a number, or arrays, at parameters"
        f" with noise of {jitter} of their size. Check the loss at the parameters themselves, and"
        " lower jitter if it is finite there."
      )
    total += np.sum(base**2)
    for place, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
      if not jnp.issubdtype(leaf.dtype, jnp.floating):
        continue

      def change(new, place=place, leaves=leaves, base=base):
        changed = outputs([*leaves[:place], new, *leaves[place + 1 :]])
        return np.sum((np.asarray(changed, np.float64) - base) ** 2)

      factors = _factors(name, leaf)
      scaled[place] += change(leaf * factors) + change(leaf / factors)
      moved[place] += sum(change(_turned(name, leaf, rng)) for _ in range(2))
  precision = [
    float(jnp.finfo(leaf.dtype).eps) if jnp.issubdtype(leaf.dtype, jnp.floating) else 1.0
    for leaf in given
  ]
  is_felt = np.isfinite(scaled + moved) & (moved > np.array(precision) * total)
  changes = np.sqrt(scaled / np.where(is_felt, moved, 1.0))
  return jax.tree_util.tree_unflatten(structure, np.where(is_felt, changes, np.inf).tolist())


def _jittered(leaf, jitter, rng):
  """A parameter with noise; one that is 0 gets noise as if it were 1."""
  if not jitter or not jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf
  wide = leaf.astype(np.float64)
  size = np.sqrt(np.mean(np.square(wide))) or 1.0
  return (wide + jitter * size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)


def _factors(name, leaf):
  """2 for a single layer; 2 and 1/2 in turn for stacked ones."""
  axes = layer_axes(name, leaf)
  if len(axes) == leaf.ndim:
    return np.full([1] * leaf.ndim, 2, leaf.dtype)
  factors = 2.0 ** (1 - 2 * (np.arange(leaf.shape[0]) % 2))
  return np.expand_dims(factors, axes).astype(leaf.dtype)


def _turned(name, leaf, rng):
  """A parameter of about the same norm, at about 45 degrees."""
  wide = leaf.astype(np.float64)
  size = np.sqrt(np.mean(np.square(wide), layer_axes(name, leaf), keepdims=True))
  return ((wide + size * rng.standard_normal(leaf.shape)) * 0.5**0.5).astype(leaf.dtype)
