"""How precisely a function is computed, measured from its values."""

import numpy as np

from tatnet.layer.derivatives import JetFunction

# Sixth differences over seven points this far apart leave nothing of a smooth function.
_SPACING = 2.0**-18
_SIXTH = np.array([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0])


def rounding(jet: JetFunction, points: np.ndarray) -> np.ndarray:
  """Standard deviation of what rounding does to a jet near each of the points, [4, points].

  0 for a function that is constant over some 1e-5, as after rounding to 16 bits.
  """
  near = points[:, None] + _SPACING * (1 + np.abs(points[:, None])) * np.arange(-3, 4)
  differences = np.array(jet(near)) @ _SIXTH
  return np.abs(differences) / np.linalg.norm(_SIXTH)


def precision(jet: JetFunction) -> float:
  """Relative rounding of a function's values where a normal variable lies: 1e-16, or 1e-7.

  The median over places, so that kinks and jumps at a few do not count.
  """
  points = np.linspace(-3.0717, 3.0513, 41)
  size = np.max(np.abs(jet(points)[0]))
  return float(np.median(rounding(jet, points)[0]) / size) if size > 0 else 0.0
