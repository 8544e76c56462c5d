"""Loss, gradients and Kronecker factors in one pass."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tatnet.optim import haiku_taps
from tatnet.optim.blocks import Block, Uncovered, blocks_of, check_uncovered
from tatnet.optim.losses import Loss
from tatnet.optim.taps import Observer, Sharing

Taps = dict[str, dict[str, jax.Array]]
Curvature = Literal["fisher", "gauss-newton", "empirical"]
_CURVATURES = ("fisher", "gauss-newton", "empirical")


class Factors(NamedTuple):
  """Curvature statistics of one batch.

  Attributes:
    weight: 1, or 0 where the pass was asked to leave them out. Factors of several
      batches may be averaged; the optimiser divides by the averaged weight.
    layers: for each layer its second moments by name: "inputs" and "outputs" of
      layers and embeddings, "scale" and "offset" of normalisations.
  """

  weight: jax.Array
  layers: dict[str, dict[str, jax.Array]]


class Evaluation(NamedTuple):
  """What a function made by `value_grad_and_factors` returns.

  Attributes:
    loss: mean over the batch.
    outputs: of the network, ``[batch, ...]``.
    gradients: of the loss, like the parameters.
    factors: for the optimiser's ``update(..., factors=factors)``.
    state: of the network, as it left it; empty for networks without state.
  """

  loss: jax.Array
  outputs: jax.Array
  gradients: Any
  factors: Factors
  state: Any


def value_grad_and_factors(
  network: Any,
  loss: Loss,
  *,
  curvature: Curvature = "fisher",
  sharing: Sharing = "reduce",
  uncovered: Uncovered = "error",
) -> Callable[..., Evaluation]:
  """A function that returns loss, gradients and Kronecker factors of a network.

  One forward pass serves two backward passes: one for the gradients of the loss,
  one for random gradients whose covariance is the curvature. The factors of each
  layer are cotangents of that second pass.

  Args:
    network: what `hk.transform` or `hk.transform_with_state` returned, or anything
      with such an `init` and `apply` (a `tatnet.nets.Network`); or a function
      ``apply(params, taps, observer, inputs)`` written with the methods of
      `tatnet.optim.Observer`, whose params are ``{layer: {"w": ..., "b": ...}}``.
    loss: `SoftmaxCrossEntropy`, `SquaredError`, `SigmoidCrossEntropy`,
      `NegativeLogLikelihood`, or an object like them.
    curvature: "fisher" draws targets from the network's predictions;
      "gauss-newton" sends a random vector through the square root of the output
      Hessian; "empirical" uses the targets themselves, which is not the curvature.
    sharing: how layers that use their weights at many locations count them; see
      `Observer`.
    uncovered: "error", or "identity" for parameters that K-FAC does not know:
      their gradients then pass unchanged.

  Returns:
    A function ``(params, inputs, targets, *, state=None, key=None, refresh=True,
    **kwargs)``, to be called inside the caller's own `jax.jit`, that returns an
    `Evaluation`. `inputs` is one array, or a tuple of arrays, batch first; `kwargs`
    go to the network. `key` is used for the network and for sampling. Without
    `refresh`, which may be a traced bool, the factors are zero and cost nothing.

  Raises:
    ValueError: layers that K-FAC does not cover, all of them named; a batch that is
      not the leading axis; an unknown option.
    TypeError: a network that is not one.

  Reference:
    Martens & Grosse (arXiv 1503.05671); Grosse & Martens (arXiv 1602.01407).

  Example:
    >>> network = hk.transform(lambda x: hk.nets.MLP([16, 3])(x))
    >>> x, y = jnp.ones([8, 4]), jnp.zeros(8, int)
    >>> params = network.init(jax.random.key(0), x)
    >>> evaluate = tatnet.value_grad_and_factors(network, tatnet.optim.SoftmaxCrossEntropy())
    >>> result = jax.jit(evaluate)(params, x, y, key=jax.random.key(1))
    >>> jax.tree.map(jnp.shape, result.factors.layers["mlp/~/linear_0"])
    {'inputs': (5, 5), 'outputs': (16, 16)}
  """
  if curvature not in _CURVATURES:
    raise ValueError(f"curvature={curvature!r}; expected one of {_CURVATURES}.")
  if sharing not in ("expand", "reduce"):
    raise ValueError(f"sharing={sharing!r}; expected 'expand' or 'reduce'.")
  check_uncovered(uncovered)
  is_model = hasattr(network, "init") and hasattr(network, "apply")
  if not is_model and not callable(network):
    raise TypeError(
      f"value_grad_and_factors got the network {network!r}; expected what hk.transform returned, or"
      " a function apply(params, taps, observer, inputs)."
    )

  def evaluate(params, inputs, targets, *, state=None, key=None, refresh=True, **kwargs):
    inputs = jax.tree.map(jnp.asarray, inputs if isinstance(inputs, tuple) else (inputs,))
    if key is None and curvature != "empirical":
      raise TypeError(
        f"curvature={curvature!r} needs a random key; expected key=jax.random.key(...)"
      )
    model_key, sample_key = (None, None) if key is None else jax.random.split(key)
    observer = Observer(_batch_size(inputs), sharing, _dtype_of(params))
    make = _HaikuRun if is_model else _PlainRun
    run = make(network, observer, params, state, model_key, inputs, kwargs)
    taps, covered = run.taps(uncovered)

    outputs, pull_back, new_state = jax.vjp(run, params, taps, has_aux=True)
    if not isinstance(outputs, jax.Array):
      raise TypeError(
        f"The network returned {jax.tree.structure(outputs)}; expected one array [batch, ...]."
      )

    def mean_loss(outputs):
      losses = loss.per_example(outputs, targets)
      if losses.shape != (observer.batch,):
        raise ValueError(
          f"The loss has the shape {losses.shape} for outputs {outputs.shape} and a batch of"
          f" {observer.batch} examples; expected ({observer.batch},): one number for each example."
        )
      return losses.mean()

    value, seed = jax.value_and_grad(mean_loss)(outputs)
    gradients, _ = pull_back(seed)

    def factors():
      if curvature == "empirical":
        sample = seed * observer.batch  # gradients of single examples
      elif curvature == "fisher":
        sample = loss.fisher_sample(sample_key, outputs)
      else:
        noise = jax.random.normal(sample_key, outputs.shape, outputs.dtype)
        sample = loss.hessian_root(outputs, noise)
      _, statistics = pull_back(sample.astype(outputs.dtype))
      return Factors(jnp.ones(()), {name: statistics[name] for name in covered})

    def none():
      return Factors(
        jnp.zeros(()), {name: jax.tree.map(jnp.zeros_like, taps[name]) for name in covered}
      )

    if isinstance(refresh, bool | np.bool_):
      found = factors() if refresh else none()
    else:
      found = jax.lax.cond(refresh, factors, none)
    return Evaluation(value, outputs, gradients, found, new_state)

  return evaluate


def _batch_size(inputs: tuple) -> int:
  sizes = {leaf.shape[0] for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf)}
  if len(sizes) != 1:
    raise ValueError(
      f"The inputs have {sorted(sizes) or 'no'} examples along their leading axes; expected arrays"
      " that agree in the size of the batch."
    )
  return sizes.pop()


def _dtype_of(params) -> jnp.dtype:
  """Factors have the precision of the parameters, and at least 32 bits."""
  return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(params)))


@dataclasses.dataclass
class _HaikuRun:
  """A Haiku model as a function of parameters and taps."""

  network: Any
  observer: Observer
  params: Any
  state: Any
  key: Any
  inputs: tuple
  kwargs: Mapping

  def __post_init__(self):
    self._is_stateless = isinstance(self.network, hk.Transformed)
    if self.state is None and not self._is_stateless:
      self.state = {}
    self._model = haiku_taps.TappedModel(self.observer, self.state or {})
    is_haiku = isinstance(self.network, hk.Transformed | hk.TransformedWithState)
    names = inspect.signature(self.network.apply).parameters if is_haiku else ("rng",)
    self._takes_key = "rng" in names  # hk.without_apply_rng takes it away

  def taps(self, uncovered: Uncovered) -> tuple[Taps, list[str]]:
    """Dummies of the layers, and which layers are covered."""
    key = jax.random.key(0)

    def init():
      made = self.network.init(key, *self.inputs, **self.kwargs)
      return made if self._is_stateless else made[0]

    with self._model.installed():
      shapes = jax.eval_shape(init)
    _, taps = haiku_taps.split_taps(shapes)
    covered = _covered(self.params, taps, self._model.problems, uncovered)
    return jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), taps), covered

  def __call__(self, params, taps):
    merged = haiku_taps.merged(params, taps)
    state = () if self._is_stateless else (self.state,)
    key = (self.key,) if self._takes_key else ()
    with self._model.installed():
      result = self.network.apply(merged, *state, *key, *self.inputs, **self.kwargs)
    return (result, {}) if self._is_stateless else result


@dataclasses.dataclass
class _PlainRun:
  """A function written with taps, as a function of parameters and taps."""

  apply: Callable
  observer: Observer
  params: Any
  state: Any
  key: Any
  inputs: tuple
  kwargs: Mapping

  def taps(self, uncovered: Uncovered) -> tuple[Taps, list[str]]:
    """Dummies of the layers, and which layers are covered."""
    blocks, _ = blocks_of(self.params)
    shapes = {
      name: {
        key: jax.ShapeDtypeStruct(shape, self.observer.dtype)
        for key, shape in block.statistics().items()
      }
      for name, block in blocks.items()
    }
    taps = jax.tree.map(lambda tap: jnp.zeros(tap.shape, tap.dtype), shapes)
    problems = dict.fromkeys(self._unused(taps), "does not use its taps")
    return taps, _covered(self.params, shapes, problems, uncovered)

  def _unused(self, taps: Taps) -> list[str]:
    """Layers with taps that the function never reads."""
    jaxpr = jax.make_jaxpr(lambda taps: self(self.params, taps)[0])(taps).jaxpr
    read = {id(var) for eqn in jaxpr.eqns for var in eqn.invars}
    paths = [path for path, _ in jax.tree.leaves_with_path(taps)]
    names = [
      path[0].key for path, var in zip(paths, jaxpr.invars, strict=True) if id(var) not in read
    ]
    return sorted(set(names))

  def __call__(self, params, taps):
    kwargs = dict(self.kwargs)
    if "key" in inspect.signature(self.apply).parameters:
      kwargs["key"] = self.key
    return self.apply(params, taps, self.observer, *self.inputs, **kwargs), {}


def _covered(
  params, taps: Mapping[str, Mapping], problems: Mapping[str, str], uncovered: Uncovered
) -> list[str]:
  """Names of the layers that K-FAC covers; an error for all others unless they may pass."""
  blocks, names = blocks_of(params)
  found = list(names)
  covered = []
  for name, block in blocks.items():
    reason = _reason(block, taps.get(name), problems)
    if reason is None:
      covered.append(name)
    else:
      found.extend(f"{name}/{key}{reason}" for key in params[name])
  if found and uncovered == "error":
    listed = "\n".join(f"  {line}" for line in found)
    raise ValueError(
      f"K-FAC does not cover these parameters:\n{listed}\nExpected layers that it knows (dense"
      " layers and convolutions that are called once, embeddings, scales and offsets of"
      " normalisations). Replace them, or pass uncovered='identity' here and to the optimiser, so"
      " that their gradients pass unchanged."
    )
  return covered


def _reason(block: Block, taps: Mapping | None, problems: Mapping[str, str]) -> str | None:
  if block.name in problems:
    return f"  (the layer {problems[block.name]})"
  if taps is None:
    return "  (not a layer that was called)"
  expected = block.statistics()
  shapes = {key: tuple(tap.shape) for key, tap in taps.items()}
  if shapes != expected:
    return (
      f"  (its factors have the shapes {shapes}, not {expected}: name a stack of layers so that its"
      " path contains 'layer_stack')"
    )
  return None
