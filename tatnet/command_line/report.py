"""``tatnet report``: predicted against measured kernels of a network."""

import argparse
import importlib
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

from tatnet.command_line import tokens
from tatnet.command_line.failure import CommandError
from tatnet.command_line.options import (
  add_command,
  add_method,
  add_network,
  loaded,
  method_of,
  named_network,
  refuse,
  solved,
)
from tatnet.layer.record import as_transformed
from tatnet.tracing.api import trace
from tatnet.tracing.findings import TopologyError

_COSINES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99)
_EXAMPLES = """examples:
  tatnet report mlp --depth 50 --width 256 --png report.png
  tatnet report mlp --depth 50 --width 256 --activation relu --method eoc --check
  tatnet report cifar_resnet20 --width 4 --activation tanh --method dks
  tatnet report my_model:forward --inputs images.npy
  tatnet report transformer --depth 12 --context 128 --png tokens.png
  tatnet report transformer-prenorm --depth 12

my_model:forward is a function forward(inputs, activation) as one passes to
hk.transform. By default the inputs are pairs of cosine similarity 0 to 0.99.
Of transformers by name, tokens are reported block by block; for one of your own
take tatnet.diagnostics.token_report in Python.

exit codes: 0 reported; 1 the target is out of reach, or, with --check, the
network is not well shaped, or its tokens are one; 2 bad usage or values
"""


def add_parser(commands) -> None:
  """Adds the command."""
  parser = add_command(
    commands,
    "report",
    help="whether a network will train, before it trains",
    description="Compares the maps' prediction with random networks, layer by layer.",
    examples=_EXAMPLES,
  )
  parser.add_argument(
    "network", metavar="NETWORK", help="a named network (see `tatnet nets`) or module:function"
  )
  parser.add_argument("--activation", default="leaky_relu", help="default: %(default)s")
  add_network(parser)
  tokens.add_sizes(parser)
  add_method(parser, "none")
  group = parser.add_argument_group("inputs").add_mutually_exclusive_group()
  group.add_argument(
    "--input-shape",
    type=_shape,
    metavar="N,N,...",
    help="of one input, such as 32,32,3: pairs of random ones",
  )
  group.add_argument("--inputs", metavar="FILE", help="a batch of real inputs, .npy")
  parser.add_argument("--seeds", type=int, default=4, help="random networks; default: %(default)s")
  parser.add_argument("--png", metavar="FILE", help="draws the figure")
  parser.add_argument("--check", action="store_true", help="exit code 1 unless well shaped")
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
  """Runs the command."""
  from tatnet import diagnostics  # needs Haiku

  as_transformed(arguments.activation)  # a name that is not known is no matter of reach
  method = method_of(arguments)
  if arguments.seeds < 1:
    raise CommandError(f"--seeds {arguments.seeds}; expected at least 1.")
  if arguments.png is not None and not pathlib.Path(arguments.png).absolute().parent.is_dir():
    raise CommandError(f"--png {arguments.png}: there is no such folder.")
  is_own = ":" in arguments.network
  if not is_own and tokens.is_transformer(arguments.network):
    return tokens.run(arguments, method)
  refuse(arguments, tokens.SIZES, "a transformer.")
  if is_own:
    why = f"a named network; {arguments.network!r} is what it is."
    refuse(arguments, ("depth", "width", "version", "shortcut_weight"), why)
  inputs = _inputs(arguments, is_own)
  try:
    if is_own:
      forward = _function(arguments.network)
      batch = getattr(inputs, "inputs", inputs)
      topology = trace(forward, jax.ShapeDtypeStruct(batch.shape, batch.dtype)) if method else None
    else:
      network = named_network(arguments.network, arguments)
      forward, topology = network.forward, network.topology
    activation = solved(arguments.activation, topology, method)
    report = diagnostics.kernel_report(
      forward, inputs, activation=activation, seeds=arguments.seeds
    )
  except (CommandError, TopologyError):
    raise
  except Exception as error:
    if not is_own or isinstance(error, ImportError):
      raise
    # Whatever the user's function raises.
    raise CommandError(f"{arguments.network} failed: {type(error).__name__}: {error}") from error
  sys.stdout.write(f"{report}\n")
  if arguments.png is not None:
    diagnostics.report_figure(report).savefig(arguments.png, dpi=100, format="png")
  return 1 if arguments.check and report.findings else 0


def _shape(text: str) -> tuple[int, ...]:
  try:
    shape = tuple(int(part) for part in text.split(","))
  except ValueError:
    shape = ()
  if not shape or min(shape) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected numbers such as 32,32,3")
  return shape


def _inputs(arguments: argparse.Namespace, is_own: bool):
  from tatnet.diagnostics import input_pairs

  if arguments.inputs is not None:
    return loaded(arguments.inputs, np.float32)
  shape = arguments.input_shape
  if shape is None:
    if is_own:
      raise CommandError(f"{arguments.network!r} needs --input-shape or --inputs.")
    shape = (arguments.width or 64,) if arguments.network.startswith("mlp") else (32, 32, 3)
  return input_pairs(_COSINES, shape)


def _function(target: str) -> Callable:
  """``module:function``; modules in the working directory count."""
  module_name, _, name = target.partition(":")
  folder = str(pathlib.Path.cwd())
  sys.path.insert(0, folder)
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise CommandError(f"{target!r}: the module cannot be imported: {error}") from error
  finally:
    sys.path.remove(folder)
  function = getattr(module, name, None)
  if not callable(function):
    raise CommandError(f"{target!r}: the module {module_name} has no function {name!r}.")
  return function
