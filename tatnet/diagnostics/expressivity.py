"""A residual network, made without training, that gives every example its label."""

import dataclasses
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tatnet.diagnostics import memorising

_ATTEMPTS = 10


class ExpressiveResNet(hk.Module):
  r"""The network of Theorem 3.2: a projection, residual blocks, and an output block.

  Every block is :math:`h \to h + V \max(U h + s, 0)`. The last one maps to the classes; its
  shortcut pads h with zeros, or cuts it off. There is no normalisation.

  Args:
    width: k, size of h.
    hidden: hidden units of each block before the last.
    num_classes: r, size of the output and hidden units of the last block.
    name: name of the module.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Section 3.

  Example:
    >>> from tatnet.diagnostics.expressivity import ExpressiveResNet
    >>> network = hk.transform(lambda x: ExpressiveResNet(8, [8, 5], 3)(x))
    >>> params = network.init(jax.random.key(0), jnp.ones([4, 6]))
    >>> {key: array.shape for key, array in params["expressive_resnet/block_1_in"].items()}
    {'w': (8, 5), 'b': (5,)}
  """

  def __init__(
    self,
    width: int,
    hidden: tuple[int, ...],
    num_classes: int,
    name: str | None = "expressive_resnet",
  ):
    super().__init__(name=name)
    self.width, self.hidden, self.num_classes = width, tuple(hidden), num_classes

  def __call__(self, x: jax.Array) -> jax.Array:
    """Outputs ``[batch, num_classes]`` of inputs ``[batch, d]``."""
    h = hk.Linear(self.width, with_bias=False, name="projection")(x)
    for place, units in enumerate(self.hidden):
      h += _branch(h, units, self.width, f"block_{place}")
    padding = max(self.num_classes - self.width, 0)
    shortcut = jnp.pad(h[:, : self.num_classes], [(0, 0), (0, padding)])
    return shortcut + _branch(h, self.num_classes, self.num_classes, "output")


def _branch(h, units, outputs, name):
  inner = jax.nn.relu(hk.Linear(units, name=f"{name}_in")(h))
  return hk.Linear(outputs, with_bias=False, name=f"{name}_out")(inner)


@dataclasses.dataclass(frozen=True)
class ExpressiveNetwork:
  """What `expressive_network` returns.

  Attributes:
    params: Haiku parameters ``{module: {"w": ..., "b": ...}}``.
    width: size of the residual stream.
    hidden: hidden units of each block before the last.
    num_classes: size of the output.
  """

  params: Any = dataclasses.field(repr=False)
  width: int
  hidden: tuple[int, ...]
  num_classes: int

  def forward(self, x: jax.Array) -> jax.Array:
    """The network as an untransformed Haiku function of inputs ``[batch, d]``."""
    return ExpressiveResNet(self.width, self.hidden, self.num_classes)(x)

  @property
  def transformed(self) -> hk.Transformed:
    """The network's ``init(key, x)`` and ``apply(params, x)``."""
    return hk.without_apply_rng(hk.transform(self.forward))

  def __call__(self, x: jax.Array) -> jax.Array:
    """Outputs ``[batch, num_classes]`` at the constructed parameters."""
    return self.transformed.apply(self.params, x)

  @property
  def num_parameters(self) -> int:
    """Number of parameters, biases included."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def expressive_network(
  inputs: Any,
  labels: Any,
  num_classes: int | None = None,
  *,
  width: int | None = None,
  seed: int = 0,
  dtype: Any = jnp.float32,
) -> ExpressiveNetwork:
  r"""Constructs a ReLU residual network that maps every example to its label exactly.

  Inputs are projected to k numbers, and every class gets a random unit vector there. Each
  block moves k examples :math:`\alpha_i` to the vectors :math:`\beta_i` of their classes and leaves all
  other points where they are:

  .. math::
     h \to h + \sum_i \frac{\beta_i - \alpha_i}{\|\alpha_i\|^2 - t_i}
       \max(\langle \alpha_i, h \rangle - t_i, 0), \qquad
     t_i = \tfrac12 \bigl(\|\alpha_i\|^2 + \max_{j \ne i} \langle \alpha_i, h_j \rangle\bigr),

  so that only the unit of the example itself is active at an example. The last block does the
  same with the classes' vectors and the labels' unit vectors. The thresholds are chosen
  for each unit; the paper's common one needs points that are further apart than it says.

  Args:
    inputs: ``[n, d]``, each of norm 1, no two of them equal unless their labels are.
    labels: integers ``[n]`` in ``[0, num_classes)``.
    num_classes: r; None for the largest label plus 1.
    width: k; None for :math:`\lceil 10 \ln \max(n, r) \rceil`. With k of at least d the projection
      keeps all distances, and the construction cannot fail for points that are
      distinct in `dtype`; smaller ones succeed with high probability.
    seed: of the projection and the classes' vectors.
    dtype: of the parameters. The construction itself is in float64.

  Returns:
    An `ExpressiveNetwork`: `params` and `forward` are an ordinary Haiku network, that may
    be trained further. Its outputs are one-hot at the examples, to within rounding.

  Raises:
    ValueError: inputs that are not of norm 1 or that coincide with different labels, labels
      out of range, or examples too close to be told apart at this width and dtype.
    TypeError: labels that are not integers.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 3.2, Lemmas B.1 and B.2; projection of variance
    1/k in place of 1.

  Example:
    >>> x = np.random.default_rng(0).normal(size=[60, 20])
    >>> x /= np.linalg.norm(x, axis=1, keepdims=True)
    >>> labels = np.arange(60) % 3
    >>> network = tatnet.diagnostics.expressivity.expressive_network(x, labels)
    >>> network
    ExpressiveNetwork(width=41, hidden=(41, 19), num_classes=3)
    >>> bool(jnp.abs(network(jnp.asarray(x, jnp.float32)) - jax.nn.one_hot(labels, 3)).max() < 1e-3)
    True
  """
  points, classes, num_classes = memorising.checked(inputs, labels, num_classes)
  unique, first = np.unique(points, axis=0, return_index=True)
  memorising.check_coinciding(unique, points, classes)
  of_unique = classes[first]
  if width is None:
    width = default_width(len(unique), num_classes)
  if not (width >= 1 and int(width) == width):
    raise ValueError(
      f"expressive_network got width={width!r}; expected a positive integer or None."
    )

  rng, reasons = np.random.default_rng(seed), []
  for _ in range(_ATTEMPTS):
    try:
      arrays = memorising.construct(unique, of_unique, num_classes, int(width), rng)
    except memorising.NotSeparatedError as error:
      reasons.append(str(error))
      continue
    params = {
      f"expressive_resnet/{name}": {key: jnp.asarray(array, dtype) for key, array in layer.items()}
      for name, layer in arrays.items()
    }
    hidden = tuple(memorising.block_sizes(len(unique), int(width)))
    network = ExpressiveNetwork(params, int(width), hidden, num_classes)
    error = np.abs(network(jnp.asarray(points, dtype)) - np.eye(num_classes)[classes]).max()
    if error < 0.01:
      return network
    reasons.append(f"rounding to {jnp.dtype(dtype)} changes outputs by {error:.2g}")
  wider = (
    "" if width >= points.shape[1] else f" a larger width ({points.shape[1]} keeps all distances),"
  )
  raise ValueError(
    f"expressive_network found no network of width {width} for {len(unique)} distinct inputs in"
    f" {_ATTEMPTS} attempts: {reasons[-1]}. {memorising.closest_pair(unique)} Expected points further"
    f" apart,{wider} or dtype=jnp.float64 with jax.enable_x64."
  )


def default_width(num_examples: int, num_classes: int) -> int:
  r"""The width of the theorem's construction, :math:`\lceil 10 \ln \max(n, r) \rceil`.

  Args:
    num_examples: n.
    num_classes: r.

  Returns:
    k, at least 1.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Section 3: "c = 10 works".

  Example:
    >>> tatnet.diagnostics.expressivity.default_width(500, 10)
    63
  """
  return max(1, math.ceil(10 * math.log(max(num_examples, num_classes))))


def expressive_parameter_count(
  num_examples: int, input_size: int, num_classes: int, width: int | None = None
) -> int:
  r"""How many parameters `expressive_network` needs: :math:`k d + 2 k n + n + k r + r^2 + r`.

  With :math:`k = O(\log n)`, which a fixed distance between the examples allows, that is
  :math:`O(n \log n + r^2 + d \log n)`: each example costs a row of U, a column of V and a
  threshold, and the projection k d, which the paper leaves out.

  Args:
    num_examples: n, distinct ones.
    input_size: d.
    num_classes: r.
    width: k; None for `default_width`.

  Returns:
    The number, biases included.

  Raises:
    ValueError: numbers below 1.

  Reference:
    Hardt & Ma (arXiv 1611.04231), Theorem 3.2.

  Example:
    >>> tatnet.diagnostics.expressivity.expressive_parameter_count(500, 50, 10)
    67390
  """
  if min(num_examples, input_size, num_classes, 1 if width is None else width) < 1:
    raise ValueError(
      f"expressive_parameter_count got num_examples={num_examples}, input_size={input_size},"
      f" num_classes={num_classes}, width={width}; expected positive integers."
    )
  k = default_width(num_examples, num_classes) if width is None else width
  return (
    k * input_size + (2 * k + 1) * num_examples + k * num_classes + num_classes * (num_classes + 1)
  )
