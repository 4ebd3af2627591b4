"""Where the text of a corpus comes from, without TensorFlow: documents, in shards and parts.

A source lists its documents in a fixed order. Shards are contiguous stretches of that order,
so that an interrupted tokenisation goes on at a shard instead of reading everything again. A
document too long for one string comes in parts, one after another within its split.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

# Counts the ways in which seqio_tasks.py has turned texts into tokens. It is part of a store's
# identity: raise it with any change there that gives other tokens.
PREPROCESSING = 1


@dataclasses.dataclass(frozen=True)
class Text:
  """A document, or one part of it."""

  text: bytes  # UTF-8
  starts_document: bool = True
  ends_document: bool = True


class DocumentSource(Protocol):
  """The same texts in the same order at every reading."""

  @property
  def splits(self) -> Sequence[str]: ...

  def num_shards(self, split: str) -> int: ...

  def read(self, split: str, shard: int) -> Iterator[Text]: ...
