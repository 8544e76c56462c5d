"""K-FAC: curvature statistics of a model, and the Optax transform that uses them."""

from tatnet.optim.adaptive import AdaptiveKfacState, adaptive_kfac
from tatnet.optim.alias import kfac
from tatnet.optim.combined_losses import Joint, MeanOverLocations, Weighted
from tatnet.optim.evaluate import Evaluation, value_grad_and_factors
from tatnet.optim.factors import Factors, mean_factors
from tatnet.optim.kfac import scale_by_kfac
from tatnet.optim.losses import (
  Loss,
  NegativeLogLikelihood,
  SigmoidCrossEntropy,
  SoftmaxCrossEntropy,
  SquaredError,
)
from tatnet.optim.state import ScaleByKfacState, curvature_by_layer, factors_due
from tatnet.optim.taps import Observer

__all__ = [
  "AdaptiveKfacState",
  "Evaluation",
  "Factors",
  "Joint",
  "Loss",
  "MeanOverLocations",
  "NegativeLogLikelihood",
  "Observer",
  "ScaleByKfacState",
  "SigmoidCrossEntropy",
  "SoftmaxCrossEntropy",
  "SquaredError",
  "Weighted",
  "adaptive_kfac",
  "curvature_by_layer",
  "factors_due",
  "kfac",
  "mean_factors",
  "scale_by_kfac",
  "value_grad_and_factors",
]
