"""``tatnet nets``: the named networks."""

import argparse
import sys


def add_parser(commands) -> None:
  """Adds the command."""
  parser = commands.add_parser(
    "nets",
    help="list of named networks",
    description="Lists the architectures and the baselines that tatnet.nets.create knows.",
    epilog="examples:\n  tatnet nets",
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
  """Runs the command."""
  del arguments
  from tatnet import nets  # Haiku takes a while to import

  lines = [name for name in nets.names() if "-" not in name]
  lines += ["", f"baselines of each: {', '.join('-' + name for name in nets.BASELINES)}"]
  sys.stdout.write("\n".join(lines) + "\n")
  return 0
