"""Schedules as they were published: attention planned by itself, without the nonlinear layers."""

import itertools
import math

from tatnet.attention.checks import as_cosine, as_decay, check_count, check_flag
from tatnet.attention.exponential import ExponentialLayer
from tatnet.attention.schedule import AttentionSchedule
from tatnet.attention.uniform import UniformLayer


def exponential_schedule(
  depth: int, final_decay: float = 0.005, *, causal: bool = True, tokens: int | None = None
) -> AttentionSchedule:
  """E-SPA: kernels ``exp(-decay |i - j|)`` whose decay falls from layer to layer.

  The decays are such that every causal layer has the same diagonal, ``alpha**(1 / depth)``
  with ``alpha**2 = 1 - exp(-2 final_decay)``. It is planned for attention alone: nonlinear
  layers between raise q and cosines beyond the plan, which only rectifiers bear. For a
  plan that holds with them see `attention_schedule`.

  Args:
    depth: number of attention layers.
    final_decay: decay behind the last one.
    causal: whether tokens read none after them.
    tokens: the length of sequences, where causal is False: symmetric roots have no closed form.

  Returns:
    An `AttentionSchedule`.

  Raises:
    TypeError: arguments of another kind.
    ValueError: numbers out of range, or no length where one is needed.

  Reference:
    He et al. (arXiv 2302.10322), E-SPA; the schedule as in public implementations of it.

  Example:
    >>> schedule = tatnet.attention.exponential_schedule(12)
    >>> round(schedule[0].after, 6), round(schedule[-1].after, 6)
    (0.571295, 0.005)
    >>> schedule.as_matrix(3, 6).diagonal().round(6).tolist()
    [1.0, 0.825232, 0.825232, 0.825232, 0.825232, 0.825232]
  """
  depth = check_count("exponential_schedule", "depth", depth)
  final = as_decay("exponential_schedule", "final_decay", final_decay)
  check_flag("exponential_schedule", "causal", causal)
  if final == math.inf:
    raise ValueError("exponential_schedule got final_decay=inf; expected a finite decay.")
  log_alpha = math.log(-math.expm1(-2 * final)) / 2
  inner = [-math.log(-math.expm1(2 * log_alpha * n / depth)) / 2 for n in range(1, depth)]
  decays = [math.inf, *inner, final]
  pairs = itertools.pairwise(decays)
  layers = tuple(ExponentialLayer(before, after, causal) for before, after in pairs)
  return AttentionSchedule(layers, causal, None if causal else tokens)


def uniform_schedule(
  depth: int, final_cosine: float = 0.8, *, causal: bool = True
) -> AttentionSchedule:
  """U-SPA: kernels of equal off-diagonals that rise by the same step in every layer.

  It is planned for attention alone, as `exponential_schedule` is.

  Args:
    depth: number of attention layers.
    final_cosine: cosine of two tokens behind the last one, in [0, 1).
    causal: whether tokens read none after them.

  Returns:
    An `AttentionSchedule`; the cosine behind layer l of `depth`, from 1, is
    ``1 - (1 - final_cosine)**(l / depth)``.

  Raises:
    TypeError: arguments of another kind.
    ValueError: numbers out of range.

  Reference:
    He et al. (arXiv 2302.10322), U-SPA. Equal steps are this library's choice.

  Example:
    >>> schedule = tatnet.attention.uniform_schedule(4, 0.8)
    >>> [round(schedule.kernel(n), 6) for n in range(4)]
    [0.33126, 0.552786, 0.70093, 0.8]
  """
  depth = check_count("uniform_schedule", "depth", depth)
  final = as_cosine("uniform_schedule", "final_cosine", final_cosine)
  check_flag("uniform_schedule", "causal", causal)
  cosines = [-math.expm1(math.log1p(-final) * n / depth) for n in range(depth)] + [final]
  pairs = itertools.pairwise(cosines)
  return AttentionSchedule(tuple(UniformLayer(a, b, causal) for a, b in pairs), causal)
