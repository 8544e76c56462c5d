"""What is looked at where a nonlinear layer reads a signal: whether C maps describe it there."""

from tatnet.network.builders import identity
from tatnet.tracing.findings import Findings
from tatnet.tracing.means import UNKNOWN_SHARE
from tatnet.tracing.nodes import Node


class Cautions:
  """Reports what is wrong with the inputs of nonlinear layers, each average once."""

  def __init__(self, findings: Findings):
    self._findings = findings
    self._said: set[str] = set()

  def before_nonlinear(self, node: Node, place: str) -> None:
    """Looks at the signal that a nonlinear layer reads.

    Args:
      node: the signal.
      place: of the layer.
    """
    if node.is_gaussian:
      self._of_gaussian(node, place)
    elif node.kind == "mixed":
      self._findings.error(
        "constant matrix",
        node.place,
        f"a nonlinearity at {place} is applied to a product with a constant matrix, not with weights",
        "give weights as parameters, by trace_apply(apply, weights, inputs), where they are taken to"
        " be random.",
      )
    else:
      before = "the raw input" if node.reaches_input else "the output of a nonlinearity"
      self._findings.error(
        "nonlinearity without weights before it",
        place,
        f"it is applied to {before}, with no linear or convolutional layer between",
        "put a layer with random weights before it; only then are its inputs Gaussian, as C maps"
        " assume.",
      )

  def _of_gaussian(self, node: Node, place: str) -> None:
    if node.unmixed:
      self._findings.warn(
        "depthwise convolution between nonlinear layers",
        node.unmixed,
        "each channel of it is one channel before it times a number, and a nonlinear layer reads it"
        " as if weights had mixed channels",
        "let a layer that mixes channels, such as a 1x1 convolution, stand between.",
      )
    elif node.kind == "sum" and node.mean != identity():
      self._findings.warn(
        "nonlinearity of a sum with an activated term",
        place,
        "one term of the sum before it is the output of a nonlinearity, without weights between,"
        " so that its inputs are not Gaussian and may have a mean; q may grow from block to block",
        "add what a layer with weights has made, as pre-activation networks do.",
      )
    for pool, size in sorted(node.pools):
      if pool not in self._said:
        self._said.add(pool)
        self._of_average(pool, size)

  def _of_average(self, place: str, size: float) -> None:
    share = UNKNOWN_SHARE
    q = (1 + (size - 1) * share) / size
    self._findings.warn(
      "averaging between nonlinear layers",
      place,
      f"a signal is averaged over {size} locations, and a nonlinear layer follows. Where locations"
      " are alike this changes nothing; where they are not, q falls and cosines rise: behind a layer"
      f" of C(0) = {share:.2g} and with locations that have nothing in common, to q = {q:.2g} and,"
      f" for inputs that have nothing in common, c = {share / q:.2g}",
      "average behind the last nonlinear layer, take a strided layer instead, or normalise behind"
      " it; and look at the kernel report.",
    )
