"""`KernelReport`: the numbers of a kernel report, with what follows from them."""

import dataclasses
import functools

from tatnet.diagnostics.kernels.quantities import KernelQuantities
from tatnet.diagnostics.kernels.text import report_text
from tatnet.diagnostics.kernels.verdict import Finding, Verdict, conclude, verdict_of


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KernelReport(KernelQuantities):
  """What `kernel_report` returns; ``str(report)`` is a table and the verdict.

  Layers are the calls of the activation, in the order of the signal; q, c and
  gradients are those at their inputs. c and q are means over locations.

  Attributes:
    activation: what was reported on.
    topology: as traced.
    tolerated: what the trace warned of, such as "max pooling at stem": maps do not describe it.
    where: places of the layers in the model.
    widths: numbers of features, shape [layers].
    q_predicted: shape [layers, inputs]; nan where the maps are not defined.
    q_measured: shape [layers, seeds, inputs].
    c_predicted: shape [layers, pairs].
    c_measured: shape [layers, seeds, pairs]; nan where q is beyond the range of numbers.
    last_cosines: measured at the last layer, all locations, flat.
    gradients_predicted: norm relative to that at the last layer, shape [layers].
    gradients_measured: norm for a random direction of the output of length 1,
      root mean square over the inputs, shape [layers, seeds].
    q_scatter: expected standard deviation of q over networks, relative to q, shape
      [layers]; for Gaussian weights, to leading order in 1 / width.
    c_scatter: that of the cosine of a pair, shape [layers].
    map_inputs: cosines at the first layer, shape [grid].
    map_outputs: where the network takes them, in infinite width, shape [grid].
    orthogonal: where the maps take inputs whose cosine is 0 at the first layer: the
      cosine at each layer and at the output, shape [layers + 1].
    slopes: of the C map at 1, from the first layer to each and to the output,
      shape [layers + 1].
    narrowness: depth over width: the sum of 1 / width over the layers, those beside
      shortcuts with less weight.
  """

  @functools.cached_property
  def findings(self) -> list[Finding]:
    """What is wrong, what weighs most first; empty for a well shaped network."""
    return conclude(self)

  @property
  def verdict(self) -> Verdict:
    """The most important finding's, or that the network is well shaped."""
    return verdict_of(self.findings)

  def __str__(self) -> str:
    return report_text(self, self.findings)

  def __repr__(self) -> str:
    return f"<KernelReport of {len(self.widths)} layers: {self.verdict.value}>"
