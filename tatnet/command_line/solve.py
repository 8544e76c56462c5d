"""``tatnet solve``: the numbers of a transformed activation."""

import argparse
import dataclasses
import json
import math
import sys

from tatnet.command_line.failure import CommandError
from tatnet.command_line.options import (
  add_command,
  add_method,
  add_network,
  check_depth,
  method_of,
  named_network,
  refuse,
  solved,
)
from tatnet.layer.activations import activation_names
from tatnet.layer.record import as_transformed
from tatnet.network.builders import chain
from tatnet.shaping.global_maps import cmap

_EXAMPLES = """examples:
  tatnet solve leaky_relu --depth 49
  tatnet solve tanh --network resnet50 --method dks --zeta 1.5 --json
  tatnet solve gelu --network cifar_resnet20 --shortcut-weight 0.8 --tau 0.3

The activation to write is
  output_scale * (phi(input_scale * x + input_shift) + output_shift)
where what is not listed is 1 or 0. It expects weights of variance 1 / inputs
(times weight_scale^2) and biases 0 (bias_scale: their standard deviation).

exit codes: 0 solved; 1 the target is out of reach; 2 bad usage or values
"""


def add_parser(commands) -> None:
  """Adds the command."""
  parser = add_command(
    commands,
    "solve",
    help="parameters of an activation for a network",
    description="Solves for the activation that shapes a network's kernel.",
    examples=_EXAMPLES,
  )
  parser.add_argument(
    "activation", metavar="ACTIVATION", help=f"one of {', '.join(activation_names())}"
  )
  parser.add_argument("--network", metavar="NAME", help="a named network: see `tatnet nets`")
  add_network(parser)
  add_method(parser)
  parser.add_argument("--json", action="store_true", help="as JSON")
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
  """Runs the command."""
  as_transformed(arguments.activation)  # a name that is not known is no matter of reach
  method = method_of(arguments)
  if arguments.network is not None:
    topology = named_network(arguments.network, arguments).topology
  elif arguments.depth is None:
    raise CommandError("solve needs --depth, the number of nonlinear layers, or --network.")
  else:
    refuse(arguments, ("width", "version", "shortcut_weight"), "--network.")
    check_depth(arguments.depth)
    topology = chain(arguments.depth)
  activation = solved(arguments.activation, topology, method)
  write = _write_json if arguments.json else _write_text
  write(arguments, topology, method, activation)
  return 0


def _write_json(arguments, topology, method, activation):
  local = dataclasses.asdict(activation.local)
  data = {
    **activation.to_dict(),
    "method": {"name": arguments.method, **dataclasses.asdict(method)},
    "num_nonlinear": topology.num_nonlinear,
    "local": {key: value if math.isfinite(value) else None for key, value in local.items()},
  }
  sys.stdout.write(json.dumps(data, indent=2) + "\n")


def _write_text(arguments, topology, method, activation):
  del arguments

  def of_network(c):
    return round(float(cmap(topology, activation, c)), 12)  # no rounding errors for a zero

  numbers = {k: v for k, v in activation.to_dict().items() if k != "name"}
  width = max(len(key) for key in numbers)
  local = activation.local
  lines = [
    f"{activation.name}, {method}, {topology.num_nonlinear} nonlinear layers",
    *(f"  {key:{width}}  {value!r}" for key, value in numbers.items()),
    f"each layer: Q(q) = {local.q:.6g}, Q' = {local.q_slope:.6g}, C(0) = {round(local.c0, 12):.6g}, C'(1) ="
    f" {local.c_slope:.8g}, C''(1) = {local.c_curvature:.6g}",
    f"network: C(0) = {of_network(0.0):.6g}, C(0.5) = {of_network(0.5):.6g}",
  ]
  sys.stdout.write("\n".join(lines) + "\n")
