"""Training: state, the jitted step, evaluation, checkpoints, metrics; used by every example."""

from tatnet.training.checkpoints import CheckpointNotWritten, Checkpoints
from tatnet.training.curves import plot_runs
from tatnet.training.devices import data_mesh, replicated, sharded, start_processes
from tatnet.training.evaluation import Result, make_evaluation
from tatnet.training.interruption import Interruption
from tatnet.training.lock import FolderInUse, FolderLock
from tatnet.training.metrics import MetricsWriter, read_metrics
from tatnet.training.optimizers import (
  OptimizerSettings,
  are_weights,
  learning_rate_schedule,
  make_optimizer,
)
from tatnet.training.state import TrainState, create_state, parameters_to_evaluate
from tatnet.training.step import make_train_step

__all__ = [
  "CheckpointNotWritten",
  "Checkpoints",
  "FolderInUse",
  "FolderLock",
  "Interruption",
  "MetricsWriter",
  "OptimizerSettings",
  "Result",
  "TrainState",
  "are_weights",
  "create_state",
  "data_mesh",
  "learning_rate_schedule",
  "make_evaluation",
  "make_optimizer",
  "make_train_step",
  "parameters_to_evaluate",
  "plot_runs",
  "read_metrics",
  "replicated",
  "sharded",
  "start_processes",
]
