"""Arguments that commands share, and what they stand for."""

import argparse
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tatnet.command_line.failure import CommandError
from tatnet.layer.record import TransformedActivation, as_transformed
from tatnet.network.nodes import Topology
from tatnet.shaping import DKS, EOC, TAT
from tatnet.shaping.method import RECTIFIERS, Method
from tatnet.shaping.transform import transform_activation

if TYPE_CHECKING:
  from tatnet.nets import Network

_METHODS = {"tat": TAT, "dks": DKS, "eoc": EOC}
_SIZES = ("depth", "width", "version")
_NUMBERS = ("eta", "tau", "zeta", "q_slope", "sigma_b")
_DEEPEST = 10_000


def add_command(
  commands, name: str, *, help: str, description: str, examples: str
) -> argparse.ArgumentParser:
  """A command's parser, with examples as they are written."""
  return commands.add_parser(
    name,
    help=help,
    description=description,
    epilog=examples,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def add_method(parser: argparse.ArgumentParser, *more: str) -> None:
  """--method and the numbers that methods have."""
  group = parser.add_argument_group("method")
  choices = [*_METHODS, *more]
  group.add_argument("--method", choices=choices, default="tat", help="default: %(default)s")
  group.add_argument("--eta", type=float, help="TAT of leaky_relu: C(0) of the network, 0.9")
  group.add_argument("--tau", type=float, help="TAT of smooth activations: C''(1), 0.3")
  group.add_argument("--zeta", type=float, help="DKS: largest C'(1) of a subnetwork, 1.5")
  group.add_argument("--q-slope", type=float, help="DKS: Q'(1) of a layer, 1")
  group.add_argument("--sigma-b", type=float, help="EOC: standard deviation of biases, 0")


def add_network(parser: argparse.ArgumentParser) -> None:
  """What describes a named network besides its name."""
  parser.add_argument("--depth", type=int, help="number of nonlinear layers")
  parser.add_argument("--width", type=int, help="of an mlp; multiplier of a cifar_resnet")
  parser.add_argument("--version", type=int, choices=(1, 2), help="of a ResNet; default: 2")
  parser.add_argument(
    "--shortcut-weight", type=float, help="w of the sums w x + sqrt(1 - w^2) f(x); default: 0"
  )


def method_of(arguments: argparse.Namespace) -> Method | None:
  """The record of the method; None for "none"."""
  kind = _METHODS.get(arguments.method)
  fields = inspect.signature(kind).parameters if kind else {}
  given = {
    name: getattr(arguments, name) for name in _NUMBERS if getattr(arguments, name) is not None
  }
  for name in given:
    if name not in fields:
      known = ", ".join(map(flag, fields)) or "no numbers"
      raise CommandError(
        f"{flag(name)} does not go with --method {arguments.method}, which takes {known}."
      )
  is_rectifier = arguments.activation in RECTIFIERS
  for name, does_nothing, instead in (
    ("tau", is_rectifier, "--eta, the cosine at the output"),
    ("eta", not is_rectifier, "--tau, the curvature of the network's C map at 1"),
    ("q_slope", arguments.activation == "relu", "--zeta: it has one number to choose, for C'(1)"),
  ):
    if name in given and does_nothing:
      raise CommandError(
        f"{flag(name)} changes nothing for {arguments.activation!r}, which takes {instead}."
      )
  return kind(**given) if kind else None


def names_a_target(arguments: argparse.Namespace) -> bool:
  """Whether a method other than TAT is asked for, or one of a method's numbers is given."""
  others = arguments.method not in ("tat", "none")
  return others or any(getattr(arguments, name) is not None for name in _NUMBERS)


def loaded(path: str, dtype: type) -> np.ndarray:
  """The array of --inputs."""
  try:
    return np.load(path).astype(dtype)
  except (OSError, ValueError, EOFError, AttributeError) as error:
    raise CommandError(
      f"--inputs {path}: {error}; expected one array, as np.save writes it."
    ) from error


def check_depth(depth: int | None) -> None:
  """Raises CommandError for a network that would take for ever."""
  if depth is not None and depth > _DEEPEST:
    raise CommandError(
      f"--depth {depth}; expected at most {_DEEPEST}: maps are composed layer by layer."
    )


def refuse(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
  """Raises CommandError where one of these options is given."""
  for name in names:
    if getattr(arguments, name) is not None:
      raise CommandError(f"{flag(name)} goes with {why}")


def solved(name: str, topology: Topology, method: Method | None) -> TransformedActivation:
  """The activation, transformed if there is a method."""
  plain = as_transformed(name)
  if method is None:
    return plain
  try:
    return transform_activation(name, topology, method)
  except ValueError as error:  # the name is known and the numbers are in range
    raise CommandError(str(error), code=1) from error


def flag(name: str) -> str:
  """The option of an argument."""
  return "--" + name.replace("_", "-")


def named_network(name: str, arguments: argparse.Namespace) -> "Network":
  """One of `tatnet.nets.names()`, as it is described on the command line."""
  from tatnet import nets  # Haiku takes a while to import

  check_depth(arguments.depth)
  sizes = inspect.signature(nets.architecture_of(name)).parameters
  architecture, _, baseline = name.partition("-")
  if architecture in nets.TRANSFORMERS:
    raise CommandError(
      f"{name!r} is a transformer, whose attention is planned with its sizes; expected another network."
      " Take tatnet.nets.create and tatnet.trace in Python for transformers."
    )
  if baseline:
    raise CommandError(
      f"{name!r} is a baseline, which brings its activation, method and sums along; expected an"
      f" architecture, such as {architecture!r}, with --activation, --method and"
      " --shortcut-weight."
    )
  known = [key for key in _SIZES if key in sizes and not (key == "depth" and name[-1].isdigit())]
  given = {key: getattr(arguments, key) for key in (*_SIZES, "shortcut_weight")}
  given = {key: value for key, value in given.items() if value is not None}
  for key in given:
    if key not in (*known, "shortcut_weight"):
      own = ", ".join(map(flag, (*known, "shortcut_weight")))
      raise CommandError(f"{flag(key)} does not go with {name!r}, which takes {own}.")
  empty = inspect.Parameter.empty
  lacking = [key for key in known if sizes[key].default is empty and key not in given]
  if lacking:
    raise CommandError(f"{name!r} needs {' and '.join(map(flag, lacking))} as well.")
  options = {"activation": "relu", "method": None, "shortcut_weight": 0.0, **given}
  return nets.create(name, num_classes=10, **options)
