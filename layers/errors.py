"""Errors for the user, as opposed to faults of the program.

They are on the lowest floor so that every floor can raise them. The command line prints their
message as a single line, without a traceback.
"""

_SHOWN = 60  # characters of a value


class UserError(ValueError):
  """Wrong input: exit code 2. The message names the cause and the cure."""


class Diverged(FloatingPointError):
  """A run's numbers are no longer finite: exit code 1. The message says what to do."""


def short(text: str, most: int = 3 * _SHOWN) -> str:
  """A text for an error message, without its middle if it is longer than `most` characters."""
  return text if len(text) <= most else f"{text[: most - _SHOWN]}...{text[-_SHOWN // 2 :]}"


def shown(value: object) -> str:
  """A value's repr for an error message; a long string loses its middle.

  The string is cut before repr, so that a huge one costs nothing.
  """
  if isinstance(value, str) and len(value) > _SHOWN:
    half = _SHOWN // 2
    return f"{value[:half]!r}...{value[-half:]!r}"
  return repr(value)


# The end of a Diverged message.
GENTLER = "Lower the learning rate, lengthen the warmup or clip harder"
