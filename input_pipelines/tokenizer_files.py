"""Tokenizers from files: SentencePiece, Hugging Face tokenizer.json, BPE ranks as tiktoken has.

The vocabulary that a file gives has the ids and the pieces that its own library has, and is
told apart from others by a hash of the file: two with the same pieces may split differently.
"""

import base64
import binascii
import functools
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from input_pipelines.vocabularies import PieceVocabulary, Vocabulary
from layers.errors import UserError

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
_KINDS = ".model (SentencePiece), .json (Hugging Face) or .tiktoken (BPE ranks)"
# What a tokenizer.json does not say, where there is no tokenizer_config.json beside it.
_USUAL_BOS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>")
_USUAL_EOS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>")

_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4_WORDS = (  # unlike LLaMA 3, a text's last white space is one word
  r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
  r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O_WORDS = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
  r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
  r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Specials(NamedTuple):
  """What a file of ranks leaves out: how text is split into words, and the ids after them."""

  words: str
  bos_id: int | None = None
  eos_id: int | None = None
  vocab_size: int = 0


# By the number of ranks. A file of another number has no BOS and no EOS, which is said.
_SPECIALS = {
  50_256: _Specials(_GPT2_WORDS, None, 50_256, 50_257),  # GPT-2
  100_256: _Specials(_GPT4_WORDS, None, 100_257, 100_277),  # GPT-4
  128_000: _Specials(_LLAMA3_WORDS, 128_000, 128_001, 128_256),  # LLaMA 3
  199_998: _Specials(_GPT4O_WORDS, None, 199_999, 200_019),  # GPT-4o
}
_OTHER = _Specials(_LLAMA3_WORDS)


class FileVocabulary(PieceVocabulary):
  """A tokenizer file's pieces, with the `encode` of the library that reads it."""

  def __init__(
    self,
    pieces: list[bytes],
    *,
    bos_id: int | None,
    eos_id: int | None,
    encode: Callable[[str], Iterable[int]],
    sha256: str,
  ):
    super().__init__(pieces, bos_id=bos_id, eos_id=eos_id)
    self._encode = encode
    self._sha256 = sha256

  def encode(self, text: str) -> np.ndarray:
    return np.array(self._encode(text), np.int32)

  def as_seqio(self) -> NoReturn:
    raise UserError("a tokenizer file is for data that tokenise with it, such as @Jsonl")

  def facts(self) -> dict[str, Any]:
    return {**super().facts(), "tokenizer_sha256": self._sha256}


def load_tokenizer(path: str) -> Vocabulary:
  """The tokenizer in the file at `path`; UserError where it is missing or not one.

  Its kind is told by its suffix; a .model that is lines of text holds BPE ranks, as LLaMA 3's.
  """
  path = os.path.expanduser(path)
  try:
    status = os.stat(path)
    return _load(path, status.st_size, status.st_mtime_ns)
  except OSError as error:
    raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None


@functools.lru_cache(maxsize=4)
def _load(path: str, size: int, modified: int) -> Vocabulary:
  content = Path(path).read_bytes()
  sha256 = hashlib.sha256(content).hexdigest()
  suffix = Path(path).suffix
  if suffix == ".json":
    return _hugging_face(path, content, sha256)
  if suffix == ".tiktoken" or suffix == ".model" and _is_ranks(content):
    return _byte_pairs(path, content, sha256)
  if suffix == ".model":
    return _sentencepiece(path, content, sha256)
  raise UserError(f"the tokenizer {path} is of no known kind; give a {_KINDS}")


def _sentencepiece(path: str, content: bytes, sha256: str) -> Vocabulary:
  sentencepiece = _import("sentencepiece", path)
  model = sentencepiece.SentencePieceProcessor()
  try:
    model.LoadFromSerializedProto(content)
  except RuntimeError:
    raise UserError(f"{path} is no SentencePiece model") from None

  def piece(i: int) -> bytes:
    if model.IsControl(i):
      return b""
    if model.IsUnknown(i):
      return "\N{REPLACEMENT CHARACTER}".encode()
    return _unescaped(model.IdToPiece(i), model.IsByte(i))

  return FileVocabulary(
    [piece(i) for i in range(model.GetPieceSize())],
    bos_id=model.bos_id() if model.bos_id() >= 0 else None,
    eos_id=model.eos_id() if model.eos_id() >= 0 else None,
    encode=model.EncodeAsIds,
    sha256=sha256,
  )


def _hugging_face(path: str, content: bytes, sha256: str) -> Vocabulary:
  tokenizers = _import("tokenizers", path)
  try:
    described = json.loads(content)
    tokenizer = tokenizers.Tokenizer.from_str(content.decode())
  except Exception as error:  # the library raises nothing narrower
    raise UserError(f"{path} is no tokenizer.json: {' '.join(str(error).split())}") from None
  tokenizer.no_truncation()  # which the file may ask for: text would be lost
  tokenizer.no_padding()
  ids = tokenizer.get_vocab(with_added_tokens=True)
  added = {token["id"]: token for token in described.get("added_tokens", ())}
  to_bytes = _piece_reader(described)
  pieces = [b""] * (max(ids.values()) + 1)
  for text, i in ids.items():
    if i not in added:
      pieces[i] = to_bytes(text)
    elif not added[i].get("special"):
      pieces[i] = text.encode()
  config = _config_beside(path)
  return FileVocabulary(
    pieces,
    bos_id=_special_id(config, "bos_token", _USUAL_BOS, ids),
    eos_id=_special_id(config, "eos_token", _USUAL_EOS, ids),
    encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    sha256=sha256,
  )


def _piece_reader(described: dict[str, Any]) -> Callable[[str], bytes]:
  """What turns a piece as tokenizer.json writes it into the bytes it stands for."""
  parts = json.dumps([described.get("pre_tokenizer"), described.get("decoder")])
  if '"ByteLevel"' in parts:
    table = _byte_level_table()
    # A character beyond the table, such as an added one's, stands for itself.
    return lambda piece: b"".join(table.get(c) or c.encode() for c in piece)
  if '"WordPiece"' in parts:
    return lambda piece: (piece[2:] if piece.startswith("##") else " " + piece).encode()
  has_bytes = bool((described.get("model") or {}).get("byte_fallback"))
  is_byte = lambda piece: has_bytes and len(piece) == 6 and piece.startswith("<0x")
  return lambda piece: _unescaped(piece, is_byte(piece))


def _unescaped(piece: str, is_byte: bool) -> bytes:
  """A piece as SentencePiece writes it: `<0x0A>` is a byte, and a low block is a space."""
  return bytes([int(piece[1:-1], 16)]) if is_byte else piece.replace(_WORD_START, " ").encode()


def _byte_level_table() -> dict[str, bytes]:
  """The printable character that GPT-2's tokenizer writes for each byte, to that byte."""
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in plain]
  characters = [*map(chr, plain), *(chr(256 + i) for i in range(len(others)))]
  return {c: bytes([byte]) for c, byte in zip(characters, plain + others, strict=True)}


def _config_beside(path: str) -> dict[str, Any] | None:
  file = Path(path).with_name("tokenizer_config.json")
  if not file.exists():
    return None
  try:
    return json.loads(file.read_bytes())
  except ValueError:
    raise UserError(f"{file} is not JSON; mend it, or take it away") from None


def _special_id(
  config: dict[str, Any] | None, key: str, usual: tuple[str, ...], ids: dict[str, int]
) -> int | None:
  if config is None:
    return next((ids[token] for token in usual if token in ids), None)
  token = config.get(key)
  return ids.get(token["content"] if isinstance(token, dict) else token or "")


def _is_ranks(content: bytes) -> bool:
  token, _, rank = content.partition(b"\n")[0].strip().partition(b" ")
  return bool(token) and rank.isdigit()


def _byte_pairs(path: str, content: bytes, sha256: str) -> Vocabulary:
  tiktoken = _import("tiktoken", path)
  try:
    lines = [line.split() for line in content.splitlines() if line]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
  except (binascii.Error, ValueError):
    raise UserError(f"{path} is no file of BPE ranks: lines of base64 and a number") from None
  missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
  if missing or sorted(ranks.values()) != list(range(len(ranks))):
    raise UserError(f"{path} is no file of BPE ranks: bytes or ranks are missing or double")
  specials = _SPECIALS.get(len(ranks), _OTHER)
  if specials is _OTHER:
    print(
      f"the tokenizer {path}: {len(ranks):,} BPE ranks are of none that is known here; text is "
      "split into words as for LLaMA 3, and there is no BOS and no EOS",
      file=sys.stderr,
    )
  encoding = tiktoken.Encoding(
    Path(path).name, pat_str=specials.words, mergeable_ranks=ranks, special_tokens={}
  )
  pieces = sorted(ranks, key=ranks.__getitem__)
  return FileVocabulary(
    pieces + [b""] * (specials.vocab_size - len(pieces)),
    bos_id=specials.bos_id,
    eos_id=specials.eos_id,
    encode=encoding.encode_ordinary,
    sha256=sha256,
  )


def _import(package: str, path: str) -> Any:
  try:
    return importlib.import_module(package)
  except ModuleNotFoundError:
    raise UserError(
      f"{package} is needed to read the tokenizer {path}; pip install {package}"
    ) from None
