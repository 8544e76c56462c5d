"""``python -m tatnet``: the command line."""

import sys

from tatnet.command_line import main

if __name__ == "__main__":
  sys.exit(main())
