"""The errors that are for the user's eyes, and no fault of the program.

They stand on the lowest floor, pure maths otherwise, so that every floor can raise them. The
command line prints their message as a single line, without a traceback.
"""

_SHOWN = 60  # characters of a value


class UserError(ValueError):
  """Wrong input: exit code 2. The message names the cause and the cure."""


class Diverged(FloatingPointError):
  """A run's numbers are not finite any more: exit code 1. The message says what to do."""


def short(text: str, most: int = 3 * _SHOWN) -> str:
  """A text for an error message, without its middle where it is longer than `most`."""
  return text if len(text) <= most else f"{text[: most - _SHOWN]}...{text[-_SHOWN // 2 :]}"


def shown(value: object) -> str:
  """A value as an error message shows it: as Python writes it; a long string loses its middle.

  A long string is cut before it is written, so that a huge one costs nothing.
  """
  if isinstance(value, str) and len(value) > _SHOWN:
    half = _SHOWN // 2
    return f"{value[:half]!r}...{value[-half:]!r}"
  return repr(value)


# What a message of Diverged ends with.
GENTLER = "Lower the learning rate, lengthen the warmup or clip harder"
