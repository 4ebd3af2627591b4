"""The one error that means: what the user asked for is wrong, not the program.

It stands on the lowest floor, pure maths otherwise, so that every floor can raise it. The
command line prints its message as a single line and exits with code 2, without a traceback.
"""


class UserError(ValueError):
  """Wrong input. The message names the cause and the cure, in one line."""
