"""How a command ends early."""


class CommandError(Exception):
  """Ends the command with a message and an exit code.

  Attributes:
    code: 1 for a target out of reach, 2 for anything wrong with what was asked.
  """

  def __init__(self, message: str, code: int = 2):
    super().__init__(message)
    self.code = code
