"""Whether a function is smooth between its kinks, and its derivatives are its own.

Between declared kinks phi, phi' and phi'' must be the integrals of their derivatives. Where
they are not, panels are halved, and how the gap between the two shrinks tells why:

    gap ~ width^0       something jumps here: a kink that was not declared
    gap ~ width^(1/2)   continuous, but infinitely steep here
    gap ~ width         though the integral has converged: it is that of something else,
                        as with a straight-through estimator
    gap -> 0 faster     the function is smooth, and was too steep for the wider panel
"""

import dataclasses

import numpy as np

from tatnet.layer.activations import Activation
from tatnet.layer.quadrature import RADIUS
from tatnet.layer.rounding import rounding

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_FINEST, _FINEST_BENT = 1e-9, 2e-6
_FIRST_LOOK, _MOST_PANELS, _SLICE = 8, 2048, 1024


def check_pieces(activation: Activation, radius: float) -> None:
  """Raises ValueError where value, slope or curvature is not the integral of what follows it."""
  panels, level, unmended = _first_panels(activation, radius), 0, []
  for kink in activation.kinks:
    order = _unbounded(activation, kink) if abs(kink) < radius else None
    if order is not None:
      raise ValueError(_steep(activation, f"{kink:g}", order))
  while panels.low.size:
    panels = _measured(activation, panels)
    panels = panels.where(panels.failing.any(0))
    if level >= _FIRST_LOOK:
      _raise_if_foreign(activation, panels)
    ended = panels.width < _FINEST * (1 + np.abs(panels.low))
    if level >= _FIRST_LOOK:
      ended |= panels.bent & (panels.width < _FINEST_BENT * (1 + np.abs(panels.low)))
    unmended += [panels.where(place) for place in np.flatnonzero(ended)]
    panels = panels.where(~ended)
    panels = panels.halved() if panels.low.size <= _MOST_PANELS else panels.thinned().halved()
    level += 1
  if unmended:
    raise ValueError(_message(activation, sorted(unmended, key=lambda panel: abs(panel.low))))
  _check_declared(activation, radius)


@dataclasses.dataclass(frozen=True)
class _Panels:
  """Intervals, with what is known of them; n is their number.

  Attributes:
    low, high: ends, shape [n].
    floor: gaps that rounding makes, of phi, phi' and phi'', shape [3, n].
    gaps: of phi, phi' and phi'' on the panels that each was halved from, and on itself
      as the last, shape [levels, 3, n].
    failing: which gaps are too large, shape [3, n].
    converged: whether halving the panel leaves the integrals as they are, shape [3, n].
  """

  low: np.ndarray
  high: np.ndarray
  floor: np.ndarray
  gaps: np.ndarray
  failing: np.ndarray
  converged: np.ndarray

  @property
  def width(self) -> np.ndarray:
    return self.high - self.low

  def order(self, levels: int) -> np.ndarray:
    """log2 of the factor by which each of the last halvings has shrunk the gap, shape [3, n]."""
    before, now = self.gaps[-min(levels + 1, len(self.gaps))], self.gaps[-1]
    with np.errstate(all="ignore"):
      return np.log2(before / now) / levels

  @property
  def bent(self) -> np.ndarray:
    """Where no more than the third derivative jumps, shape [n]."""
    orders = self.order(12)
    by_width = self.failing[2] & ~self.converged[2] & (np.abs(orders[2] - 1) < 0.4)
    return by_width & ~(self.failing[:2] & (orders[:2] < 0.9)).any(0)

  def where(self, mask: np.ndarray) -> "_Panels":
    """Those of a mask or of indices."""
    return _Panels(**{
      field.name: getattr(self, field.name)[..., mask] for field in dataclasses.fields(self)
    })  # fmt: skip

  def thinned(self) -> "_Panels":
    """About as many as are affordable, spread over all."""
    return self.where(np.linspace(0, self.low.size - 1, _MOST_PANELS).astype(int))

  def halved(self) -> "_Panels":
    """Twice as many of half the width."""
    twice = self.where(np.repeat(np.arange(self.low.size), 2))
    middle = (self.low + self.high) / 2
    low, high = twice.low.copy(), twice.high.copy()
    low[1::2], high[::2] = middle, middle
    return dataclasses.replace(twice, low=low, high=high)


def _first_panels(activation: Activation, radius: float) -> _Panels:
  # An uneven range, so that no plausible kink falls between two panels. Panels
  # that end at a declared kink stop just short of it.
  count = int(np.ceil(97 * max(radius / RADIUS, 1.0)))
  inside = [kink for kink in activation.kinks if abs(kink) < radius]
  edges = np.linspace(-1.00114 * radius, 1.01442 * radius, count + 1)
  edges = np.unique(np.concatenate([edges, inside]))
  margin = np.isin(edges, inside) * 2.0**-30 * (1 + np.abs(edges))
  low, high = edges[:-1] + margin[:-1], edges[1:] - margin[1:]
  middle = (low + high) / 2
  with np.errstate(all="ignore"):
    jet = np.array(activation.jet(np.stack([low, middle, high])))
    finite = np.isfinite(jet).all((0, 1))
    _check_finite(activation, middle[~finite])
    low, high, middle, jet = low[finite], high[finite], middle[finite], jet[..., finite]
    noise = np.median(
      [rounding(activation.jet, low + part * (high - low)) for part in (0.2, 0.5, 0.8)], axis=0
    )[:3]
  # Cancellation leaves rounding of the size of what is cancelled, such as the largest value
  # so far from 0.
  size = np.maximum.accumulate(np.max(np.abs(jet[:3]), axis=1))
  outwards = np.argsort(np.abs(middle))
  largest = np.empty_like(size)
  largest[:, outwards] = np.maximum.accumulate(size[:, outwards], axis=1)
  floor = (1e-9 + 2e3 * activation.precision) * largest + 50 * np.nan_to_num(noise)
  empty = np.zeros([3, low.size], bool)
  return _Panels(low, high, floor, np.zeros([0, 3, low.size]), empty, empty)


def _check_finite(activation: Activation, places: np.ndarray) -> None:
  near = places[np.abs(places) < RADIUS]
  if near.size:
    raise ValueError(_not_finite(activation, near[np.argmin(np.abs(near))]))


def _measured(activation: Activation, panels: _Panels) -> _Panels:
  """The panels with their gaps."""
  low, half = panels.low, panels.width / 2
  whole = half[:, None] * (1 + _NODES)
  offsets = [
    np.zeros_like(whole[:, :1]),
    2 * half[:, None],
    whole,
    whole / 2,
    whole / 2 + half[:, None],
  ]
  values = _jet(activation, low[:, None] + np.concatenate(offsets, axis=1))
  bad = ~np.isfinite(values).all((0, 2))
  _check_finite(activation, low[bad])
  values = np.where(bad[:, None], 0.0, values)
  integrals = half * (values[1:, :, 2:18] @ _WEIGHTS)
  finer = half / 2 * (values[1:, :, 18:34] @ _WEIGHTS + values[1:, :, 34:] @ _WEIGHTS)
  gaps = np.abs(values[:3, :, 1] - values[:3, :, 0] - finer)
  size = np.max(np.abs(values), axis=2)
  allowed = panels.floor + 1e-6 * panels.width * size[1:]
  return dataclasses.replace(
    panels,
    gaps=np.concatenate([panels.gaps, gaps[None]]),
    failing=gaps > allowed,
    converged=np.abs(integrals - finer) < 1e-2 * gaps,
  )


def _jet(activation: Activation, points: np.ndarray) -> np.ndarray:
  """In slices of one size, for which a single program is compiled."""
  flat = points.ravel()
  with np.errstate(all="ignore"):
    parts = [activation.jet(flat[i : i + _SLICE]) for i in range(0, flat.size, _SLICE)]
  return np.concatenate(parts, axis=1).reshape(4, *points.shape)


def _raise_if_foreign(activation: Activation, panels: _Panels) -> None:
  """A derivative that is smooth and yet not that of the values."""
  orders = panels.order(4)
  foreign = panels.failing & panels.converged & (np.abs(orders - 1) < 0.1)
  # Where something jumps in a panel the derivatives above it are not to be judged.
  jumping = panels.failing & (orders < 0.9)
  for order in range(3):
    own = foreign[order] & ~jumping.any(0)
    if own.any():
      # Of the largest differences one near 0.
      difference = panels.gaps[-1, order] / panels.width / (1 + np.abs(panels.low))
      worst = int(np.argmax(np.where(own, difference, -1.0)))
      raise ValueError(_foreign(activation, panels.low[worst], panels.high[worst], order))


def _check_declared(activation: Activation, radius: float) -> None:
  left, right = activation.sides
  tolerance = max(1e-9, 1e3 * activation.precision)
  for kink, below, above in zip(activation.kinks, left[0], right[0], strict=True):
    if abs(kink) < radius and abs(above - below) > tolerance * (1 + abs(above)):
      raise ValueError(
        f"{activation.name} jumps from {below:.6g} to {above:.6g} at its declared kink x={kink:g};"
        " expected a continuous function."
      )


def _foreign(activation: Activation, low: float, high: float, order: int) -> str:
  what = ("value", "derivative", "second derivative")[order]
  middle = (low + high) / 2
  ends, slope = activation.jet(np.array([low, high]))[order], activation.jet(middle)[order + 1]
  quotient = (ends[1] - ends[0]) / (high - low)
  return (
    f"The derivative that JAX gives for the {what} of {activation.name} is not its own: near"
    f" x={middle:.4g} it is {float(slope):.4g}, and the {what} rises by {quotient:.4g} per unit."
    " So it is with straight-through estimators, surrogate gradients, jax.lax.stop_gradient,"
    " rounding inside the function, or a custom rule for its derivative; Q and C maps need those of"
    " the values. Give them, from a function f of the same values without the rule:"
    " tatnet.Activation(function, jet=tatnet.Activation(f).jet); or transform f."
  )


def _message(activation: Activation, panels: list[_Panels]) -> str:
  """What is wrong in panels that no halving has mended, the one nearest to 0 first."""
  order, exponent = _kind(panels[0])
  place = f"x={_rounded(panels[0])}"
  expected = f"expected a function that is smooth between its declared kinks {activation.kinks}."
  what = ("value", "slope", "curvature", "third derivative")[order]
  if exponent < -0.25:
    return (
      f"The {what} of {activation.name} grows beyond all bounds at {place}; {expected} A pole where a"
      " normal variable can lie makes its maps infinite."
    )
  unbounded = _unbounded(activation, float(_rounded(panels[0]))) if order < 3 else None
  if unbounded is not None or exponent > 0.25:
    return _steep(activation, _rounded(panels[0]), order + 1 if unbounded is None else unbounded)
  if order == 0:
    remedy = "A discontinuous function cannot be transformed: its C map has no slope at 1."
  else:
    kinks = sorted({_rounded(panel) for panel in panels}, key=float)[:50]
    points = "point" if len(kinks) == 1 else "points"
    listed = f"{kinks[0]}," if len(kinks) == 1 else ", ".join(kinks)
    remedy = f"Declare the {points}: tatnet.Activation(function, kinks=({listed}))."
  return f"The {what} of {activation.name} jumps at {place}; {expected} {remedy}"


def _steep(activation: Activation, place: str, order: int) -> str:
  what = ("value", "slope", "curvature", "third derivative")[order]
  return (
    f"The {what} of {activation.name} is infinite at x={place}, though the function may be continuous"
    " there; expected bounded first and second derivatives. Use a function that has them, such as"
    " (x^2 + 0.01)^(1/4) in place of sqrt(|x|)."
  )


def _unbounded(activation: Activation, place: float) -> int | None:
  """Which of phi, phi' and phi'' is the first that grows without end towards a place."""
  distances = (1 + abs(place)) * 2.0 ** -np.array([8.0, 14.0, 20.0, 26.0])
  for side in (-1.0, 1.0):
    values = activation.jet(place + side * distances)[:3]
    steps = np.abs(np.diff(values, axis=1))
    # Towards a limit the steps shrink with the distance; those of a logarithm are equal.
    least = max(1e-6, 1e3 * activation.precision) * (1 + np.abs(values[:, 0]))
    endless = (steps[:, 2] > steps[:, 1] / 2) & (steps[:, 2] > least)
    if endless.any():
      return int(np.argmax(endless))
  return None


def _kind(panel: _Panels) -> tuple[int, float]:
  """Which derivative is the first that is not continuous, and the order of its gap."""
  if panel.bent:
    return 3, 0.0
  orders = panel.order(16)
  order = next((k for k in range(3) if panel.failing[k] and orders[k] < 0.9), 2)
  return order, float(orders[order])


def _rounded(panel: _Panels) -> str:
  """Halving ends within 1e-9, or within 2e-6: of the numbers there the roundest is meant."""
  return f"{round(float(panel.low), 5 if panel.bent else 8) + 0.0:g}"


def _not_finite(activation: Activation, place: float) -> str:
  return (
    f"{activation.name} or one of its first three derivatives is not finite at x={place:.4g};"
    " expected finite values on all of [-12, 12], where a normal variable can lie."
  )
