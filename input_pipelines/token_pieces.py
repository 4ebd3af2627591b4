"""The bytes of text that each piece of a tokenizer.json stands for, if they can be known.

They can if cutting text into pieces loses nothing: with GPT-2's alphabet of bytes, or with a
mark for each space, like SentencePiece's. If words lose the spaces between them (WordPiece,
`</w>`) or text is normalised, pieces do not tell the length of a text.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
_KEPT_BY = {  # pre-tokenizers that cut text and remove nothing
  "ByteLevel",
  "Digits",
  "FixedLength",
  "Metaspace",
  "Punctuation",
  "Split",
  "UnicodeScripts",
}

Described = Mapping[str, Any]  # a tokenizer.json


def piece_reader(described: Described) -> Callable[[str], bytes] | None:
  """A function from a piece to the bytes of its text; None if they cannot be known."""
  if not _is_lossless(described):
    return None
  if is_byte_level(described):
    table = byte_level_table()
    # A character beyond the table, such as an added one's, stands for itself.
    return lambda piece: b"".join(table.get(c) or c.encode() for c in piece)
  spaces = _space_marks(described)
  has_bytes = has_byte_pieces(described)

  def read(piece: str) -> bytes:
    if has_bytes and (byte := _byte_of(piece)) is not None:
      return byte
    for mark in spaces:
      piece = piece.replace(mark, " ")
    return piece.encode()

  return read


def is_whole_alphabet(described: Described) -> bool:
  """Whether each byte has a token, so that the tokenizer can encode any text."""
  vocab = described["model"]["vocab"]
  if is_byte_level(described):
    return all(character in vocab for character in byte_level_table())
  return has_byte_pieces(described) and all(f"<0x{byte:02X}>" in vocab for byte in range(256))


def has_byte_pieces(described: Described) -> bool:
  """Whether characters without a token are written as pieces such as `<0xE6>`."""
  return bool(described["model"].get("byte_fallback"))


def extra_bytes(described: Described) -> int:
  """The number of bytes that the tokenizer may put in front of a text: 1 (a space) or 0."""
  puts_space = lambda part: (
    part["type"] == "Prepend"
    or part["type"] == "Metaspace"
    and part.get("prepend_scheme") != "never"
    or part["type"] == "ByteLevel"
    and part.get("add_prefix_space", False)
  )
  return int(any(map(puts_space, _parts(described))))


def byte_level_table() -> dict[str, bytes]:
  """The printable character that GPT-2's tokenizer writes for a byte -> the byte."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in plain]
  characters = [*map(chr, plain), *(chr(256 + i) for i in range(len(others)))]
  return {c: bytes([byte]) for c, byte in zip(characters, plain + others, strict=True)}


def _is_lossless(described: Described) -> bool:
  """Whether the pieces, joined, give the text, apart from a space in front."""
  model = described["model"]
  if model["type"] == "WordPiece" or model.get("end_of_word_suffix"):
    return False
  if model.get("continuing_subword_prefix"):
    return False
  return all(map(_keeps_text, _parts(described)))


def _keeps_text(part: Mapping[str, Any]) -> bool:
  """Whether a normalizer or pre-tokenizer loses no text. NFC passes: it rarely changes a text,
  and FileVocabulary notes when one is changed.
  """
  kind = part["type"]
  if kind == "Replace":
    return _space_mark(part) is not None
  is_removing = part.get("behavior") == "Removed"
  return kind in _KEPT_BY and not is_removing or kind in ("NFC", "ByteLevel", "Prepend")


def is_byte_level(described: Described) -> bool:
  """Whether the model reads bytes, in GPT-2's alphabet of printable characters."""
  return any(part["type"] == "ByteLevel" for part in _parts(described))


def _space_marks(described: Described) -> list[str]:
  return list(filter(None, map(_space_mark, _parts(described))))


def _space_mark(part: Mapping[str, Any]) -> str | None:
  """The character for a space after this normalizer or pre-tokenizer; None if it has none."""
  if part["type"] == "Metaspace":
    return part.get("replacement", _WORD_START)
  is_of_space = part["type"] == "Replace" and part["pattern"] == {"String": " "}
  return part["content"] if is_of_space and len(part["content"]) == 1 else None


def _byte_of(piece: str) -> bytes | None:
  """The byte of a piece such as `<0x0A>`; None for other pieces."""
  if len(piece) != 6 or not piece.startswith("<0x") or not piece.endswith(">"):
    return None
  try:
    return bytes.fromhex(piece[3:5])
  except ValueError:
    return None


def _parts(described: Described) -> Iterator[Mapping[str, Any]]:
  """All normalizers and pre-tokenizers, with sequences flattened."""
  for key, parts in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
    yield from _flat(described.get(key), parts)


def _flat(part: Mapping[str, Any] | None, parts: str) -> Iterator[Mapping[str, Any]]:
  if part is None:
    return
  if part["type"] != "Sequence":
    yield part
    return
  for inner in part[parts]:
    yield from _flat(inner, parts)
