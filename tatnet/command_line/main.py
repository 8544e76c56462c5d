"""The parser, and how errors leave the command line."""

import argparse
import importlib.metadata
import sys
import warnings
from collections.abc import Sequence

from tatnet.command_line import nets, report, solve
from tatnet.command_line.failure import CommandError

_EXAMPLES = """examples:
  tatnet solve leaky_relu --depth 49 --method tat --eta 0.9
  tatnet report mlp --depth 50 --width 256 --png report.png
  tatnet nets

exit codes: 0 done; 1 a target is out of reach, or a check failed; 2 bad usage or
values. `tatnet COMMAND --help` has more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    arguments: those of the command line; by default those of the process.

  Returns:
    The exit code, 0, 1 or 2.

  Raises:
    SystemExit: by `argparse`, for ``--help`` and bad usage.

  Example:
    >>> from tatnet.command_line import main
    >>> try:
    ...   main(["--help"])  # doctest: +ELLIPSIS
    ... except SystemExit as stop:
    ...   stop.code
    usage: ...
    0
  """
  parser = argparse.ArgumentParser(
    prog="tatnet",
    description="Kernel shaping of deep networks: TAT, DKS and EOC.",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  version = importlib.metadata.version("tatnet")
  parser.add_argument("--version", action="version", version=f"tatnet {version}")
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
  for command in (solve, report, nets):
    command.add_parser(commands)
  parsed = parser.parse_args(arguments)
  with warnings.catch_warnings(record=True) as noted:
    warnings.simplefilter("always", UserWarning)
    try:
      return parsed.run(parsed)
    except CommandError as error:
      return _fail(str(error), error.code)
    except (ValueError, TypeError, ImportError, OSError) as error:
      return _fail(str(error), 2)
    finally:
      for warning in noted:
        if issubclass(warning.category, UserWarning):
          sys.stderr.write(f"tatnet: warning: {warning.message}\n")


def _fail(message: str, code: int) -> int:
  sys.stderr.write(f"tatnet: error: {message}\n")
  return code
