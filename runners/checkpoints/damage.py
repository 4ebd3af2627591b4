"""The error for a damaged checkpoint, and short texts for its message."""

from collections.abc import Sequence

from layers.errors import UserError

_NAMED_AT_MOST = 5
_LONGEST_REASON = 300
_LONGEST = 900


class DamagedCheckpoint(UserError):
  """A checkpoint differs from what was saved. The message names the damage in one line.

  The line is cut off, since names in a damaged checkpoint may have any length.
  """

  def __init__(self, message: str):
    line = " ".join(message.splitlines())
    super().__init__(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...")


def listed(names: Sequence[str], separator: str = ", ") -> str:
  """The first few names, and how many more there are."""
  more = len(names) - _NAMED_AT_MOST
  return separator.join([*names[:_NAMED_AT_MOST], *([f"and {more} more"] if more > 0 else [])])


def reason(error: BaseException) -> str:
  """The first line of an exception's message, cut to at most 300 characters."""
  text = str(error) or type(error).__name__
  return text.splitlines()[0].rstrip(".")[:_LONGEST_REASON]
