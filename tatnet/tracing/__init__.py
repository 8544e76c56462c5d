"""Reads a topology from a model: a JAX program is abstractly interpreted, never run.

`program` walks a jaxpr and hands every equation to a rule: `elementwise`,
`affine`, `reductions` or `shapes`. The rules pass `values` around. What they
find out about the network, `network` keeps as nodes of unit q, from which the
`Topology` is read; what breaks the rules of kernel shaping, `findings` collects.
"""

from tatnet.tracing.api import placeholder, trace, trace_apply
from tatnet.tracing.findings import Finding, TopologyError, TopologyWarning

__all__ = [
  "Finding",
  "TopologyError",
  "TopologyWarning",
  "placeholder",
  "trace",
  "trace_apply",
]
