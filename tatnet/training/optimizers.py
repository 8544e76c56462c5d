"""Optimisers by name, with the settings that the papers use."""

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax
import optax

from tatnet.optim.adaptive import adaptive_kfac
from tatnet.optim.alias import are_weights, kfac
from tatnet.optim.settings import (
  BELOW_ONE,
  COUNT,
  INTERVAL,
  NOT_NEGATIVE,
  POSITIVE,
  POSITIVE_OR_NONE,
  Rule,
  check_settings,
  shown,
)

Name = Literal["sgd", "adam", "lars", "kfac", "adaptive-kfac", "muon"]
Schedule = Literal["cosine", "constant", "steps"]


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """What an optimiser is made of.

  Attributes:
    name: "sgd", "adam" (AdamW), "lars", "kfac", "adaptive-kfac" or "muon".
    learning_rate: at the end of the warm-up; adaptive-kfac finds its own, momentum
      and damping.
    warmup_steps: steps of linear warm-up from 0.
    schedule: "cosine" to 0, "constant", or "steps": multiplied by `drop_factor` at
      each of `drops`.
    drops: parts of the run, counted from the end of the warm-up, after which the
      learning rate drops; for "steps".
    drop_factor: what it is multiplied by.
    momentum: of sgd, lars and kfac; 0 for none.
    nesterov: whether sgd's momentum is Nesterov's.
    weight_decay: on weights; biases, scales and offsets are not decayed.
    damping: of kfac.
    norm_constraint: of kfac; None for none.
    factors_every: steps between refreshes of kfac's factors, also of adaptive-kfac's.
    inverse_every: steps between kfac's inversions; adaptive-kfac has one every 5.
    burn_in: first steps on which both kinds of kfac only collect factors.
    trust_coefficient: of lars.

  Raises:
    TypeError: a field of another kind.
    ValueError: a number out of range.

  Example:
    >>> tatnet.training.OptimizerSettings("adam", learning_rate=1e-4).schedule
    'cosine'
  """

  _RULES: ClassVar[dict[str, Rule]] = {
    "learning_rate": NOT_NEGATIVE,
    "warmup_steps": COUNT,
    "drop_factor": NOT_NEGATIVE,
    "momentum": BELOW_ONE,
    "weight_decay": NOT_NEGATIVE,
    "damping": POSITIVE,
    "norm_constraint": POSITIVE_OR_NONE,
    "factors_every": INTERVAL,
    "inverse_every": INTERVAL,
    "burn_in": COUNT,
    "trust_coefficient": POSITIVE,
  }

  name: Name = "kfac"
  learning_rate: float = 1e-3
  warmup_steps: int = 0
  schedule: Schedule = "cosine"
  drops: tuple[float, ...] = (0.6, 0.8)
  drop_factor: float = 0.1
  momentum: float = 0.9
  nesterov: bool = True
  weight_decay: float = 0.0
  damping: float = 1e-3
  norm_constraint: float | None = 1e-3
  factors_every: int = 1
  inverse_every: int = 50
  burn_in: int = 10
  trust_coefficient: float = 1e-3

  def __post_init__(self):
    for field in ("name", "schedule"):
      if not isinstance(getattr(self, field), str):
        raise TypeError(f"{field}={shown(getattr(self, field))}; expected a string.")
    if not isinstance(self.nesterov, bool):
      raise TypeError(f"nesterov={shown(self.nesterov)}; expected True or False.")
    if not isinstance(self.drops, tuple | list):
      raise TypeError(f"drops={shown(self.drops)}; expected a tuple of parts of the run.")
    check_settings({field: (getattr(self, field), rule) for field, rule in self._RULES.items()})
    check_settings({f"drops[{i}]": (drop, NOT_NEGATIVE) for i, drop in enumerate(self.drops)})

  def factors_due(self, step: int) -> bool:
    """Whether the update after `step` others refreshes the factors.

    The host's answer to what `tatnet.optim.factors_due` reads from the state. The two
    kinds of step are compiled apart then: on CPUs, convolutions under a condition on
    the device take a hundred times as long.

    Example:
      >>> settings = tatnet.training.OptimizerSettings(factors_every=4, burn_in=2)
      >>> [step for step in range(12) if settings.factors_due(step)]
      [0, 1, 2, 6, 10]
    """
    after = step - self.burn_in
    return self.name in ("kfac", "adaptive-kfac") and (after < 0 or after % self.factors_every == 0)


def learning_rate_schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
  """Linear warm-up, then the schedule, over a number of steps.

  Args:
    settings: with the rate, the warm-up and the schedule.
    steps: length of the run.

  Returns:
    A function from the number of updates to the learning rate.

  Raises:
    ValueError: a warm-up longer than the run, an unknown schedule, or drops outside
      of it.

  Example:
    >>> settings = tatnet.training.OptimizerSettings(learning_rate=1.0, warmup_steps=10)
    >>> schedule = tatnet.training.learning_rate_schedule(settings, 110)
    >>> [round(float(schedule(step)), 2) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
  """
  check_settings({"steps": (steps, INTERVAL)})
  peak, warmup = settings.learning_rate, settings.warmup_steps
  if not 0 <= warmup < steps:
    raise ValueError(
      f"warmup_steps={warmup} of {steps} steps; expected fewer steps of warm-up than of training."
    )
  if settings.schedule not in get_args(Schedule):
    raise ValueError(
      f"schedule={shown(settings.schedule)}; expected one of {', '.join(get_args(Schedule))}."
    )
  if not all(0 < drop < 1 for drop in settings.drops):
    raise ValueError(f"drops={settings.drops}; expected parts of the run between 0 and 1.")
  rest = steps - warmup
  drops: dict[int, float] = {}
  for drop in settings.drops:  # several may fall on one step of a short run
    drops[round(drop * rest)] = drops.get(round(drop * rest), 1.0) * settings.drop_factor
  after = {
    "cosine": optax.cosine_decay_schedule(peak, rest),
    "constant": optax.constant_schedule(peak),
    "steps": optax.piecewise_constant_schedule(peak, drops),
  }[settings.schedule]
  if warmup == 0:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
  settings: OptimizerSettings, steps: int, mesh: jax.sharding.Mesh | None = None
) -> optax.GradientTransformationExtraArgs:
  """The optimiser for a run of a number of steps.

  Args:
    settings: which, and how.
    steps: length of the run, for the schedule.
    mesh: devices that K-FAC spreads its inversions over.

  Returns:
    An Optax optimiser.

  Raises:
    ValueError: an unknown name or schedule, or a warm-up longer than the run.

  Example:
    >>> settings = tatnet.training.OptimizerSettings("sgd", learning_rate=0.1)
    >>> optimizer = tatnet.training.make_optimizer(settings, 100)
  """
  rate = learning_rate_schedule(settings, steps)
  decay, momentum = settings.weight_decay, settings.momentum or None
  if settings.name == "sgd":
    parts = [optax.add_decayed_weights(decay, are_weights)] if decay else []
    made = optax.chain(*parts, optax.sgd(rate, momentum, nesterov=settings.nesterov))
  elif settings.name == "adam":
    made = optax.adamw(rate, weight_decay=decay, mask=are_weights)
  elif settings.name == "lars":
    made = optax.lars(
      rate,
      weight_decay=decay,
      weight_decay_mask=are_weights,
      trust_coefficient=settings.trust_coefficient,
      trust_ratio_mask=are_weights,
      momentum=settings.momentum,
    )
  elif settings.name == "kfac":
    made = kfac(
      rate,
      momentum=momentum,
      damping=settings.damping,
      norm_constraint=settings.norm_constraint,
      factors_every=settings.factors_every,
      inverse_every=settings.inverse_every,
      burn_in=settings.burn_in,
      weight_decay=decay,
      mesh=mesh,
    )
  elif settings.name == "adaptive-kfac":
    made = adaptive_kfac(
      factors_every=settings.factors_every,
      burn_in=settings.burn_in,
      weight_decay=decay,
      mesh=mesh,
    )
  elif settings.name == "muon":
    made = optax.contrib.muon(
      rate,
      weight_decay=decay,
      weight_decay_mask=are_weights,
      adam_weight_decay=0.0,
      muon_weight_dimension_numbers=_as_matrices,
    )
  else:
    raise ValueError(
      f"optimizer {shown(settings.name)}; expected one of {', '.join(get_args(Name))}."
    )
  return optax.with_extra_args_support(made)


def gains_apart(
  layers: optax.GradientTransformation, gains: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
  """K-FAC for the layers of a transformer in Haiku, and another optimiser for attention's gains, which are none.

  Args:
    layers: K-FAC.
    gains: of the parameters of `tatnet.nets.ShapedAttention` that are called gains.

  Returns:
    An Optax optimiser; what evaluates factors for it wants ``uncovered="identity"``.

  Example:
    >>> from tatnet.training.optimizers import gains_apart
    >>> optimizer = gains_apart(tatnet.kfac(1e-3), optax.adam(1e-3))
  """

  def labels(params):
    return {
      layer: {name: "gains" if name.endswith("_gain") else "layers" for name in arrays}
      for layer, arrays in params.items()
    }

  both = optax.partition({"layers": layers, "gains": gains}, labels)
  return optax.with_extra_args_support(both)


def _as_matrices(params: Any) -> Any:
  """Which axes Muon orthogonalises: kernels are matrices from all inputs to outputs."""

  def numbers(path, leaf):
    is_weight = str(getattr(path[-1], "key", path[-1])) == "w"
    if not is_weight or leaf.ndim < 2:
      return None
    stacked = "layer_stack" in str(getattr(path[0], "key", path[0]))
    reduction = tuple(range(stacked, leaf.ndim - 1))
    return optax.contrib.MuonDimensionNumbers(reduction, (leaf.ndim - 1,))

  return jax.tree.map_with_path(numbers, params)
