"""Lines are those of the file, however it comes; none that is too long is held in memory."""

import itertools
import random

import pytest

from input_pipelines.line_splitting import BadLines, split_lines, too_long

LIMIT = 20


def lines_of(content):
  """What split_lines has to give: with a run of blank lines as its number."""
  lines = [*content.split(b"\n")]
  if not lines[-1]:
    del lines[-1]
  for is_blank, run in itertools.groupby(lines, lambda x: len(x) <= LIMIT and not x.strip()):
    run = list(run)
    if is_blank:
      yield len(run)
    else:
      yield from (too_long(LIMIT) if len(line) > LIMIT else line for line in run)


def joined(pieces):
  """The same with neighbouring numbers of blank lines added up."""
  for is_blank, run in itertools.groupby(pieces, lambda piece: piece[0] is None):
    run = list(run)
    yield from [sum(count for _, count in run)] if is_blank else [line for line, _ in run]


@pytest.mark.parametrize("seed", range(300))
def test_lines_are_those_of_the_content_in_chunks_of_any_size(seed):
  draw = random.Random(seed)
  content = b"".join(
    draw.choice((b"\n", b"\n" * 9, b" ", b"\t\n", b"ab", b"x" * 15)) for _ in range(60)
  )
  size = draw.randrange(1, 40)
  chunks = [content[i : i + size] for i in range(0, len(content), size)]
  assert list(joined(split_lines(chunks, LIMIT))) == list(lines_of(content))


def test_a_line_as_long_as_the_limit_is_read_and_a_longer_one_is_not():
  lines = [line for line, _ in split_lines([b"a" * LIMIT, b"\n", b"b" * LIMIT, b"b\nc"], LIMIT)]
  assert lines == [b"a" * LIMIT, too_long(LIMIT), b"c"]
  assert isinstance(lines[1], BadLines) and "max_line_bytes=20" in lines[1].message
