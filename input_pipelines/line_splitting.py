"""Splits a possibly hostile file into lines: long ones are dropped, blank ones only counted."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class BadLines:
  """Consecutive lines without an example, for a cause that is seen before parsing."""

  kind: str
  message: str
  count: int = 1


def too_long(max_bytes: int) -> BadLines:
  return BadLines(
    "too long", f"has more than max_line_bytes={max_bytes}; raise that where memory allows it"
  )


def split_lines(
  chunks: Iterable[bytes], max_bytes: int
) -> Iterator[tuple[bytes | BadLines | None, int]]:
  """(line, 1) without its line end, or (None, number of consecutive blank lines).

  A line of more than `max_bytes` is a BadLines. Memory holds at most `max_bytes` and a chunk.
  """
  held = _Line(max_bytes)
  for chunk in chunks:
    *ends, rest = _ends(chunk)
    blank = 0
    for end in ends:
      if isinstance(end, int):
        blank += end
      elif not end and not held.size:
        blank += 1
      else:
        if blank:
          yield None, blank
          blank = 0
        held.add(end)
        yield held.take()
    if blank:
      yield None, blank
    held.add(rest)
  if held.size:
    yield held.take()


def _ends(chunk: bytes) -> list[Any]:
  """The text before each line end, or a number of blank lines; then the text after the last."""
  first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
  if last > first and chunk.isspace():
    return [chunk[:first], chunk.count(b"\n") - 1, chunk[last + 1 :]]
  return chunk.split(b"\n")


class _Line:
  """Collects the parts of a line until its end."""

  def __init__(self, max_bytes: int):
    self._max_bytes = max_bytes
    self._parts: list[bytes] = []
    self.size = 0  # of the line, even if its parts were dropped

  def add(self, part: bytes) -> None:
    self.size += len(part)
    if self.size > self._max_bytes:
      self._parts = []
    elif part:
      self._parts.append(part)

  def take(self) -> tuple[bytes | BadLines | None, int]:
    line, size = b"".join(self._parts), self.size
    self._parts, self.size = [], 0
    if size > self._max_bytes:
      return too_long(self._max_bytes), 1
    return (line, 1) if line and not line.isspace() else (None, 1)
