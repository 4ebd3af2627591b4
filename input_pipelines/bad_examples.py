"""Counts unreadable examples by cause, names their files and lines, and enforces the limit."""

import collections
import sys

from layers.errors import UserError

_SHOWN_PLACES = 5


class BadExamples:
  """The tally of one reading of a corpus."""

  def __init__(self, max_fraction: float):
    """`max_fraction` (0 to 1) of all lines may be bad; with 0 the first is an error."""
    self._max_fraction = max_fraction
    self._kinds: collections.Counter[str] = collections.Counter()
    self._places: list[str] = []
    self._first = ""

  def add(self, path: str, number: int, kind: str, message: str, count: int = 1) -> None:
    """Counts `count` bad lines of `path`, starting at line `number`."""
    place = f"{path}:{number}"
    self._first = self._first or f"{place}: {kind}: {message}"
    if self._max_fraction <= 0:
      raise UserError(
        f"{self._first}; mend or remove the line, or tolerate a part of such lines with "
        "max_bad_fraction=0.01"
      )
    self._kinds[kind] += count
    if len(self._places) < _SHOWN_PLACES:
      self._places.append(place)

  def report(self, num_lines: int) -> None:
    """Prints the number of bad lines among `num_lines`, or raises UserError for too many."""
    num_bad = self._kinds.total()
    if num_bad:
      self.check(num_lines)
      places = ", ".join(self._places) + (", ..." if num_bad > len(self._places) else "")
      print(
        f"left out {num_bad:,} of {num_lines:,} lines: {self._by_kind()}; {places}",
        file=sys.stderr,
      )

  def check(self, num_lines: int) -> None:
    """Raises UserError if more of `num_lines` are bad than is tolerated."""
    num_bad = self._kinds.total()
    if num_bad > self._max_fraction * num_lines:
      raise UserError(
        f"{num_bad:,} of {num_lines:,} lines are bad, more than "
        f"max_bad_fraction={self._max_fraction} allows ({self._by_kind()}); mend or remove "
        f"them, or tolerate more; the first is {self._first}"
      )

  def _by_kind(self) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in self._kinds.most_common())
