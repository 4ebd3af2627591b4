"""Tokenizers from files: SentencePiece, Hugging Face tokenizer.json, BPE ranks (tiktoken).

A file's vocabulary has the ids and pieces of its own library. A hash of the file is part of its
fingerprint, because two tokenizers with the same pieces may split differently.

In all three kinds text stays text: `</s>` or `<|endoftext|>` in a document or a prompt is
encoded as its characters, and never becomes the id that ends a document. With
`parse_special_tokens` such text becomes the special token's id.
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from input_pipelines import byte_pair_ranks, tokenizer_json
from input_pipelines.file_vocabulary import FileVocabulary, failing_as_user_error, import_for
from input_pipelines.foreign_files import read_bytes
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError

MAX_TOKENIZER_BYTES = 2**28  # the largest in use takes 32 MiB
_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's character for a space
_KINDS = ".model (SentencePiece), .json (Hugging Face) or .tiktoken (BPE ranks)"


def load_tokenizer(
  path: str, *, parse_special_tokens: bool = False, pattern: str | None = None
) -> Vocabulary:
  """The tokenizer in the file at `path`; UserError if the file is missing or no tokenizer.

  The suffix gives its kind; a .model made of text lines holds BPE ranks, like LLaMA 3's.

  Args:
    path: of the file.
    parse_special_tokens: text written like a special token becomes that token.
    pattern: how BPE ranks split text into words, if their number does not tell: a name in
      byte_pair_ranks.PATTERNS, or a regular expression.
  """
  path = os.path.expanduser(path)
  try:
    status = os.stat(path)
  except OSError as error:
    raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None
  except ValueError as error:  # a NUL in the name
    raise UserError(f"cannot read the tokenizer {path!r}: {error}") from None
  beside = Path(path).with_name(tokenizer_json.CONFIG)
  config_stamp = beside.stat().st_mtime_ns if beside.is_file() else 0
  stamp = (status.st_size, status.st_mtime_ns, status.st_ino, config_stamp)
  return _load(path, stamp, parse_special_tokens, pattern)


@functools.lru_cache(maxsize=4)
def _load(
  path: str, stamp: tuple[int, ...], parse_special_tokens: bool, pattern: str | None
) -> Vocabulary:
  del stamp  # only a key of the cache
  content = read_bytes(path, MAX_TOKENIZER_BYTES)
  sha256 = hashlib.sha256(content).hexdigest()
  suffix = Path(path).suffix
  is_ranks = suffix == ".tiktoken" or suffix == ".model" and byte_pair_ranks.is_ranks(content)
  if pattern is not None and not is_ranks:
    raise UserError(f"tokenizer_pattern is for BPE ranks, and {path} is no file of them")
  if is_ranks:
    return byte_pair_ranks.read(path, content, sha256, parse_special_tokens, pattern)
  if suffix == ".json":
    return tokenizer_json.read(path, content, sha256, parse_special_tokens)
  if suffix == ".model":
    return _sentencepiece(path, content, sha256, parse_special_tokens)
  raise UserError(f"the tokenizer {path} is of no known kind; give a {_KINDS}")


def _sentencepiece(
  path: str, content: bytes, sha256: str, parse_special_tokens: bool
) -> Vocabulary:
  sentencepiece = import_for("sentencepiece", path)
  model = sentencepiece.SentencePieceProcessor()
  try:
    model.LoadFromSerializedProto(content)
    ids = range(model.GetPieceSize())
    texts = [model.IdToPiece(i) for i in ids]
  except (RuntimeError, ValueError):  # ValueError: a damaged model's texts may not be UTF-8
    raise UserError(f"{path} is no SentencePiece model") from None

  def piece(i: int) -> bytes:
    if model.IsControl(i):
      return b""
    if model.IsUnknown(i):
      return "\N{REPLACEMENT CHARACTER}".encode()
    if model.IsByte(i):  # <0x0A>
      return bytes([int(texts[i][1:-1], 16)])
    return texts[i].replace(_WORD_START, " ").encode()

  controls = {texts[i]: i for i in ids if model.IsControl(i)}
  read_pieces = failing_as_user_error(lambda ids: [piece(i) for i in ids], "cannot read")
  return FileVocabulary(
    read_pieces(ids),
    path=path,
    bos_id=model.bos_id() if model.bos_id() >= 0 else None,
    eos_id=model.eos_id() if model.eos_id() >= 0 else None,
    encode=_parsing(model.EncodeAsIds, controls) if parse_special_tokens else model.EncodeAsIds,
    counts_bytes=True,
    extra_bytes=1,
    facts={
      "tokenizer_sha256": sha256,
      **({"special_tokens": "parsed"} if parse_special_tokens else {}),
    },
  )


def _parsing(
  encode: Callable[[str], list[int]], specials: Mapping[str, int]
) -> Callable[[str], Sequence[int]]:
  """`encode`, but each of `specials` in a text becomes its id; texts between are encoded."""
  longest_first = sorted(filter(None, specials), key=len, reverse=True)
  if not longest_first:
    return encode
  special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

  def parse(text: str) -> list[int]:
    ids: list[int] = []
    for n, part in enumerate(special.split(text)):  # texts and specials alternate
      if n % 2:
        ids.append(specials[part])
      elif part:
        ids += encode(part)
    return ids

  return parse
