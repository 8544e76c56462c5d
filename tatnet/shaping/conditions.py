"""What a method asks of one layer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LocalConditions:
  """Values that the local maps of a unit-q activation must take; None: left free."""

  c_slope: float
  q_slope: float | None = None
  c0: float | None = None
  c_curvature: float | None = None
