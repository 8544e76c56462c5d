"""Weight dynamics of normalised networks: effective learning rates and what becomes of them.

Where a normalisation follows a layer, the loss does not change with the scale of the
layer's weights W. The gradient g is then orthogonal to W, every step makes W longer,
and what counts is how far a step turns it: the learning rate times the *effective
learning rate* (ELR) :math:`E = \\|g\\| / \\|W\\|`.
"""

from tatnet.diagnostics.dynamics.constrain import ConstrainRatesState, constrain_rates
from tatnet.diagnostics.dynamics.evolution import (
  Evolution,
  equilibrium_rate,
  predict,
  predict_flow,
)
from tatnet.diagnostics.dynamics.invariance import scale_changes, scale_invariant
from tatnet.diagnostics.dynamics.rates import (
  EffectiveRates,
  critical_learning_rate,
  effective_learning_rates,
)
from tatnet.diagnostics.dynamics.record import (
  RateLog,
  RecordRatesState,
  record_rates,
  recorded_rates,
)
from tatnet.diagnostics.dynamics.walk import Walk, random_walk
from tatnet.diagnostics.dynamics.warm_up import WarmUpState, warm_up

__all__ = [
  "ConstrainRatesState",
  "EffectiveRates",
  "Evolution",
  "RateLog",
  "RecordRatesState",
  "Walk",
  "WarmUpState",
  "constrain_rates",
  "critical_learning_rate",
  "effective_learning_rates",
  "equilibrium_rate",
  "predict",
  "predict_flow",
  "random_walk",
  "record_rates",
  "recorded_rates",
  "scale_changes",
  "scale_invariant",
  "warm_up",
]
