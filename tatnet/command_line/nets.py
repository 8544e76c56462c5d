"""``tatnet nets``: the named networks."""

import argparse
import sys

from tatnet.command_line.options import add_command


def add_parser(commands) -> None:
  """Adds the command."""
  parser = add_command(
    commands,
    "nets",
    help="list of named networks",
    description="Lists the architectures and the baselines that tatnet.nets.create knows.",
    examples="examples:\n  tatnet nets",
  )
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
  """Runs the command."""
  del arguments
  from tatnet import nets  # Haiku takes a while to import

  lines = [name for name in nets.names() if "-" not in name]
  for kind, baselines in (
    ("transformers", nets.TRANSFORMER_BASELINES),
    ("each of the others", nets.BASELINES),
  ):
    lines += ["", f"baselines of {kind}: {', '.join('-' + name for name in baselines)}"]
  sys.stdout.write("\n".join(lines) + "\n")
  return 0
