"""The numbers of a kernel report, from which its verdict and its text are made."""

import dataclasses
from typing import Any

import numpy as np

from tatnet.network.nodes import Topology


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KernelQuantities:
  """Predicted and measured numbers; `KernelReport` says what each of them is."""

  activation: Any
  topology: Topology
  tolerated: tuple[str, ...]
  where: list[str]
  widths: np.ndarray
  q_predicted: np.ndarray
  q_measured: np.ndarray
  c_predicted: np.ndarray
  c_measured: np.ndarray
  last_cosines: np.ndarray
  gradients_predicted: np.ndarray
  gradients_measured: np.ndarray
  q_scatter: np.ndarray
  c_scatter: np.ndarray
  map_inputs: np.ndarray
  map_outputs: np.ndarray
  orthogonal: np.ndarray
  slopes: np.ndarray
  narrowness: float

  @property
  def c_spread(self) -> np.ndarray:
    """Standard deviation of a pair's cosine over networks, root mean square over pairs."""
    return np.sqrt(np.mean(np.var(self.c_measured, axis=1), axis=-1))

  @property
  def gradients_relative(self) -> np.ndarray:
    """Measured gradient norms relative to the last layer's, geometric means over networks."""
    with np.errstate(all="ignore"):
      logs = np.log(self.gradients_measured) - np.log(self.gradients_measured[-1])
      return np.exp(np.mean(logs, axis=1))
