"""Parts of a network whose C map is a straight line: mixing, dropout, centring.

None of them is a layer to be solved for. Each is a node of the topology with the map
``c -> offset + slope * c``; those of a method's other quantities, the slope at 1 and the
curvature, follow from it.
"""

import abc
import dataclasses
from collections.abc import Mapping

from tatnet.network.nodes import Maps, Nonlinear, Topology


class LinearMap(Topology):
  """A part that maps cosines by a straight line."""

  @abc.abstractmethod
  def line(self, r: Maps) -> tuple[float, float]:
    """Offset and slope of its C map.

    Args:
      r: the C maps of the nonlinear layers.
    """

  def compose(self, x, r):
    own = r.get(self) if isinstance(r, Mapping) else None
    if own is not None:
      return own(x)
    offset, slope = self.line(r)
    return offset + slope * x

  def subnetworks(self):
    yield self

  @property
  def num_nonlinear(self):
    return 0


@dataclasses.dataclass(frozen=True, repr=False)
class Mixing(LinearMap):
  """An attention layer in whose kernel all tokens have one cosine; built by `mixing`.

  Layers are equal when their steps are to nine decimals, as weights of sums are.
  """

  step: float = dataclasses.field(compare=False)
  where: str | None = dataclasses.field(default=None, compare=False)
  rounded: float = dataclasses.field(init=False)

  def __post_init__(self):
    object.__setattr__(self, "rounded", round(self.step, 9))

  def line(self, r):
    del r
    return self.step, 1 - self.step

  def _lines(self):
    return [f"mixing {self.step:.6g}" + (f"  [{self.where}]" if self.where else "")]


@dataclasses.dataclass(frozen=True, repr=False)
class Dropout(LinearMap):
  """Dropout while training, at its own q: two signals keep a share of their cosine.

  Each entry survives with probability ``keep`` and is divided by it: that leaves
  covariances alone and divides q by ``keep``.
  """

  keep: float
  where: str | None = dataclasses.field(default=None, compare=False)

  def line(self, r):
    del r
    return 0.0, self.keep

  def _lines(self):
    return [f"dropout {1 - self.keep:.6g}" + (f"  [{self.where}]" if self.where else "")]


@dataclasses.dataclass(frozen=True, repr=False)
class Centring(LinearMap):
  """Layer or group normalisation: the mean over features is subtracted; built by `centring`.

  Behind an activation all signals have a mean in common, whose share of q is the C map
  at 0. Without it cosines are ``(c - c0) / (1 - c0)``.

  Attributes:
    behind: what stands between the last weights and the normalisation; its value at 0
      is c0.
  """

  behind: Topology
  where: str | None = dataclasses.field(default=None, compare=False)

  def line(self, r):
    c0 = self.behind.compose(0.0, r)
    rest = max(1 - c0, 1e-12)  # what all signals share may be all there is
    return -c0 / rest, 1 / rest

  def _lines(self):
    first, *rest = self.behind._lines()
    behind = "" if self.behind == Nonlinear() else f" behind {first}{' ...' if rest else ''}"
    return [f"centring{behind}" + (f"  [{self.where}]" if self.where else "")]
