"""The errors that are for the user's eyes, and no fault of the program.

They stand on the lowest floor, pure maths otherwise, so that every floor can raise them. The
command line prints their message as a single line, without a traceback.
"""


class UserError(ValueError):
  """Wrong input: exit code 2. The message names the cause and the cure."""


class Diverged(FloatingPointError):
  """A run's numbers are not finite any more: exit code 1. The message says what to do."""
