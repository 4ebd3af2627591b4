"""How it is said that a checkpoint is not what was saved."""

from collections.abc import Sequence

from layers.errors import UserError

_NAMED_AT_MOST = 5
_LONGEST_REASON = 300
_LONGEST = 900


class DamagedCheckpoint(UserError):
  """A checkpoint is not what was saved. The message says what is wrong with it, in one line.

  Whatever the checkpoint holds: names in it may be of any length.
  """

  def __init__(self, message: str):
    line = " ".join(message.splitlines())
    super().__init__(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}...")


def listed(names: Sequence[str], separator: str = ", ") -> str:
  """The first few of them, and how many more there are."""
  more = len(names) - _NAMED_AT_MOST
  return separator.join([*names[:_NAMED_AT_MOST], *([f"and {more} more"] if more > 0 else [])])


def reason(error: BaseException) -> str:
  """The first line of what an exception says, cut to a length that a line can hold."""
  text = str(error) or type(error).__name__
  return text.splitlines()[0].rstrip(".")[:_LONGEST_REASON]
