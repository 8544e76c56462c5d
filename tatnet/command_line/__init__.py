"""The command line: ``tatnet`` or ``python -m tatnet``, with the commands solve, report, nets.

Exit codes: 0 if all went well; 1 if the activation cannot meet the method's target
in the network, or, with ``report --check``, if the network is not well shaped; 2
for anything wrong with what was asked.
"""

from tatnet.command_line.main import main

__all__ = ["main"]
