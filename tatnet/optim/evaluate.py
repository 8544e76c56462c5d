"""Loss, gradients and Kronecker factors in one pass."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.optim.adapters import run_type
from tatnet.optim.batch_model import BatchModel, Options, Program, split_options
from tatnet.optim.blocks import Uncovered, check_uncovered, checked_limit
from tatnet.optim.factors import Factors, dtype_of
from tatnet.optim.losses import Loss, fisher_sample, hessian_root
from tatnet.optim.meshes import varying_like
from tatnet.optim.moments import Sharing
from tatnet.optim.taps import Observer

Curvature = Literal["fisher", "gauss-newton", "empirical"]


class Evaluation(NamedTuple):
  """What a function made by `value_grad_and_factors` returns.

  Attributes:
    loss: mean over the batch.
    outputs: of the network, ``[batch, ...]``, or a tree of such arrays.
    gradients: of the loss, like the parameters.
    factors: for the optimiser's ``update(..., factors=factors)``.
    state: of the network, as it left it; empty for networks without state.
    model: the loss of this batch around the parameters, for
      ``update(..., model=model)`` of `tatnet.adaptive_kfac`.
  """

  loss: jax.Array
  outputs: jax.Array
  gradients: Any
  factors: Factors
  state: Any
  model: BatchModel


def value_grad_and_factors(
  network: Any,
  loss: Loss,
  *,
  curvature: Curvature = "fisher",
  sharing: Sharing = "reduce",
  uncovered: Uncovered = "error",
  dense_up_to: int | None = None,
) -> Callable[..., Evaluation]:
  """A function that returns loss, gradients and Kronecker factors of a network.

  One forward pass serves two backward passes: one for the gradients of the loss,
  one for random gradients whose covariance is the curvature. The factors of each
  layer are cotangents of that second pass.

  Args:
    network: what `hk.transform` or `hk.transform_with_state` returned, or anything
      with such an `init` and `apply` (a `tatnet.nets.Network`); a module of Flax linen,
      Flax NNX or Equinox; or a function
      ``apply(params, taps, observer, inputs)`` written with the methods of
      `tatnet.optim.Observer`, whose params are ``{layer: {"w": ..., "b": ...}}``.
    loss: `SoftmaxCrossEntropy`, `SquaredError`, `SigmoidCrossEntropy`,
      `NegativeLogLikelihood`; `Weighted`, `MeanOverLocations` or `Joint` of them; or an
      object like them (`Loss`).
    curvature: "fisher" draws targets from the network's predictions;
      "gauss-newton" sends a random vector through the square root of the output
      Hessian; "empirical" uses the targets themselves, which is not the curvature.
    sharing: how layers that use their weights at many locations count them; see
      `Observer`.
    uncovered: "error", or "identity" for parameters that K-FAC does not know:
      their gradients then pass unchanged.
    dense_up_to: size of the largest side, of inputs or outputs, that has a dense moment;
      of a larger one only the diagonal is made. None for 5120. Give the optimiser the same.

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
  if curvature not in get_args(Curvature):
    raise ValueError(f"curvature={curvature!r}; expected one of {get_args(Curvature)}.")
  if sharing not in get_args(Sharing):
    raise ValueError(f"sharing={sharing!r}; expected 'expand' or 'reduce'.")
  check_uncovered(uncovered)
  limit = checked_limit(dense_up_to)
  make = run_type(network)
  program = Program(functools.partial(_outputs, make, network, sharing), _mean_loss(loss))

  def evaluate(params, inputs, targets, *, state=None, key=None, refresh=True, **kwargs):
    if isinstance(inputs, list):
      raise TypeError("The inputs are a list; expected one array, or a tuple of arrays.")
    if isinstance(targets, list):
      targets = jnp.asarray(targets)
    inputs = jax.tree.map(jnp.asarray, inputs if isinstance(inputs, tuple) else (inputs,))
    if key is None and curvature != "empirical":
      raise TypeError(
        f"curvature={curvature!r} needs a random key; expected key=jax.random.key(...)"
      )
    model_key, sample_key = (None, None) if key is None else jax.random.split(key)
    observer = Observer(_batch_size(inputs), sharing, dtype_of(params), limit)
    run = make(network, observer, params, state, model_key, inputs, kwargs)
    params = varying_like(inputs, params)
    taps = varying_like(inputs, run.taps(uncovered))

    outputs, pull_back, new_state = jax.vjp(run, params, taps, has_aux=True)
    batch, options = _batch_of(inputs, targets, state, model_key, kwargs)
    value, seed = jax.value_and_grad(program.mean_loss)(outputs, batch)
    gradients, _ = pull_back(seed)

    def factors():
      if curvature == "empirical":
        sample = jax.tree.map(lambda g: g * observer.batch, seed)  # of single examples
      elif curvature == "fisher":
        sample = fisher_sample(loss, sample_key, outputs, targets)
      else:
        noise = _noise_like(outputs, sample_key)
        sample = hessian_root(loss, outputs, noise, targets)
      sample = jax.tree.map(lambda g, out: g.astype(out.dtype), sample, outputs)
      _, cotangents = pull_back(sample)
      return Factors(jnp.ones(()), run.factors(taps, cotangents))

    def none():
      empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(factors))
      return Factors(empty.weight, varying_like(inputs, empty.layers))

    if isinstance(refresh, bool | np.bool_):
      found = factors() if refresh else none()
    else:
      found = jax.lax.cond(refresh, factors, none)
    model = BatchModel(program, options, batch, params, value)
    return Evaluation(value, outputs, gradients, found, new_state, model)

  return evaluate


class Batch(NamedTuple):
  """The arrays that a network is called with besides its parameters, and the targets.

  Attributes:
    inputs: arrays, batch first.
    targets: of the loss.
    state: of the network.
    key: its raw numbers, so that NumPy and any checkpointer can hold a batch.
    kwargs: of the network, those that are arrays.
  """

  inputs: tuple
  targets: Any
  state: Any
  key: jax.Array | None
  kwargs: dict[str, Any]


def _batch_of(inputs, targets, state, key, kwargs) -> tuple[Batch, Options]:
  """The arrays of a call, and what is no array of it."""
  arrays, others = split_options(kwargs)
  wrap = None
  if key is not None and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    wrap, key = jax.random.key_impl(key), jax.random.key_data(key)
  return Batch(inputs, targets, state, key, arrays), Options(kwargs=others, key=wrap)


def _outputs(make, network, sharing: Sharing, params, batch: Batch, options) -> jax.Array:
  """Outputs of a network without taps."""
  observer = Observer(_batch_size(batch.inputs), sharing, dtype_of(params))
  key = batch.key
  if options["key"] is not None:
    key = jax.random.wrap_key_data(key, impl=options["key"])
  kwargs = batch.kwargs | options["kwargs"]
  run = make(network, observer, params, batch.state, key, batch.inputs, kwargs)
  return run.untapped(params)[0]


def _mean_loss(loss: Loss) -> Callable[[jax.Array, Batch], jax.Array]:
  def mean_loss(outputs, batch):
    count, losses = _batch_size(batch.inputs), loss.per_example(outputs, batch.targets)
    if losses.shape != (count,):
      raise ValueError(
        f"The loss has the shape {losses.shape} for outputs"
        f" {jax.tree.map(jnp.shape, outputs)} and a batch of"
        f" {count} examples; expected ({count},): one number for each example."
      )
    return losses.mean()

  return mean_loss


def _noise_like(outputs: Any, key: jax.Array) -> Any:
  leaves, structure = jax.tree.flatten(outputs)
  keys = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
  return jax.tree.unflatten(
    structure,
    [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)],
  )


def _batch_size(inputs: tuple) -> int:
  sizes = {leaf.shape[0] for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf)}
  if len(sizes) != 1:
    raise ValueError(
      f"The inputs have {sorted(sizes) or 'no'} examples along their leading axes; expected arrays"
      " that agree in the size of the batch."
    )
  return sizes.pop()
