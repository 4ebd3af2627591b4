"""Sources of text, without TensorFlow: documents, in shards and parts.

A source lists its documents in a fixed order. Shards are contiguous stretches of that order, so
that an interrupted tokenisation continues at a shard instead of reading everything again. A
document too long for one string comes in consecutive parts.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

# Part of a store's identity: raise it with any change of seqio_tasks.py that gives other
# tokens.
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
