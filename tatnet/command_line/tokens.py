"""``tatnet report`` for transformers: tokens block by block."""

import argparse
import math
import sys
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from tatnet.command_line.failure import CommandError
from tatnet.command_line.options import check_depth, flag, loaded, names_a_target, refuse
from tatnet.shaping.method import Method

if TYPE_CHECKING:
  from tatnet.nets import Network

SIZES = ("heads", "context", "patch")
_BATCH, _CLASSES, _PIXELS = 4, 97, 2
_DEFAULTS = {"depth": 6, "width": 64, "heads": 4, "context": 64}


def add_sizes(parser: argparse.ArgumentParser) -> None:
  """What describes a transformer besides depth and width."""
  group = parser.add_argument_group("transformers")
  group.add_argument("--heads", type=int, help="default: 4")
  group.add_argument("--context", type=int, help="number of tokens; default: 64")
  group.add_argument("--patch", type=int, help="height and width in pixels; default: 2")


def is_transformer(name: str) -> bool:
  """Whether a name is one of a transformer."""
  from tatnet import nets  # Haiku takes a while to import

  return name.partition("-")[0] in nets.TRANSFORMERS


def run(arguments: argparse.Namespace, method: Method | None) -> int:
  """Reports on a named transformer, whose activation is shaped by the method."""
  from tatnet import diagnostics
  from tatnet.attention.schedule import AttentionSchedule

  refuse(arguments, ("version",), "a ResNet.")
  network = _network(arguments, method)
  schedule = network.options["attention"]
  report = diagnostics.token_report(
    lambda inputs: network.forward(inputs, network.activation),
    _inputs(network, arguments),
    schedule=schedule if isinstance(schedule, AttentionSchedule) else None,
    seeds=arguments.seeds,
  )
  sys.stdout.write(f"{report}\n")
  if arguments.png is not None:
    diagnostics.token_figure(report).savefig(arguments.png, dpi=100, format="png")
  return 1 if arguments.check and report.collapse is not None else 0


def _network(arguments: argparse.Namespace, method: Method | None) -> "Network":
  from tatnet import nets

  name = arguments.network
  if name not in nets.names():
    raise CommandError(f"{name!r} is no network; expected one of `tatnet nets`.")
  check_depth(arguments.depth)
  kind, _, baseline = name.partition("-")
  options = {
    key: default if getattr(arguments, key) is None else getattr(arguments, key)
    for key, default in _DEFAULTS.items()
  }
  if kind == "vision_transformer":
    options["patch"] = _PIXELS if arguments.patch is None else arguments.patch
  elif arguments.patch is not None:
    raise CommandError(f"--patch goes with a vision_transformer; {name!r} reads characters.")
  own = nets.TRANSFORMER_BASELINES.get(baseline, {})
  if "activation" not in own:
    options["activation"] = arguments.activation
    # Without a number for it, the network's own target: 0.9 is out of a shallow transformer's reach.
    if method is None or names_a_target(arguments) or arguments.activation != "leaky_relu":
      options["method"] = method
  elif names_a_target(arguments):
    raise CommandError(f"{name!r} brings its activation along, to which no method goes.")
  if arguments.shortcut_weight is not None:
    options["shortcut_weight"] = arguments.shortcut_weight
  try:
    return nets.create(name, _CLASSES, **options)
  except ValueError as error:
    raise CommandError(str(error), code=1) from error


def _inputs(network: "Network", arguments: argparse.Namespace) -> jax.Array:
  """The user's, or random characters and pixels."""
  has_pixels = "patch" in network.options
  if arguments.inputs is not None:
    return jnp.asarray(loaded(arguments.inputs, np.float32 if has_pixels else np.int32))
  if arguments.input_shape is not None:
    known = ", ".join(map(flag, ("context", "patch")))
    raise CommandError(f"--input-shape with a transformer, whose sizes are {known}.")
  key, context = jax.random.key(0), network.options["context"]
  if not has_pixels:
    return jax.random.randint(key, (_BATCH, context), 0, _CLASSES)
  side = math.isqrt(context)
  if side**2 != context:
    raise CommandError(f"--context {context} of a vision transformer; expected a square: 16, 64.")
  pixels = side * network.options["patch"]
  return jax.random.normal(key, (_BATCH, pixels, pixels, 3))
