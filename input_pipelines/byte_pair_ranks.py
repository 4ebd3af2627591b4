r"""Tokenizers given as files of byte-pair ranks: a line has a token as base64, and its rank.

The file does not say how text is split into words before bytes are merged, which ids are
special, or how many ids there are. For the files of OpenAI and of LLaMA 3 and 4 all this is
known from the number of ranks. For another file the user must give the pattern: with a wrong
one most texts still get the right ids, but a few do not.

The patterns are those of https://github.com/openai/tiktoken (tiktoken_ext/openai_public.py) and
https://github.com/meta-llama/llama-models (models/llama3, models/llama4: tokenizer.py).
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from input_pipelines.file_vocabulary import FileVocabulary, failing_as_user_error, import_for
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError, shown
from layers.suggestions import did_you_mean

_LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: Mapping[str, str] = MappingProxyType(
  {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k_base": (  # unlike LLaMA 3, a text's last white space is one word
      r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
      r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "llama3": _LLAMA3_WORDS,
    "o200k_base": (
      r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
      r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
      r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
      r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
      r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
  }
)


class _Kind(NamedTuple):
  """The facts about a tokenizer that its file of ranks leaves out."""

  pattern: str  # a key of PATTERNS
  specials: Mapping[str, int]  # special tokens that a text may name
  bos: str | None
  eos: str
  vocab_size: int
  gap: int | None = None  # a rank missing between others


_END = {"<|endoftext|>": 50_256}
_GPT4 = {
  "<|endoftext|>": 100_257,
  "<|fim_prefix|>": 100_258,
  "<|fim_middle|>": 100_259,
  "<|fim_suffix|>": 100_260,
  "<|endofprompt|>": 100_276,
}
_LLAMA3 = {
  "<|begin_of_text|>": 128_000,
  "<|end_of_text|>": 128_001,
  "<|start_header_id|>": 128_006,
  "<|end_header_id|>": 128_007,
  "<|eot_id|>": 128_009,
}
_LLAMA4 = {
  "<|begin_of_text|>": 200_000,
  "<|end_of_text|>": 200_001,
  "<|fim_prefix|>": 200_002,
  "<|fim_middle|>": 200_003,
  "<|fim_suffix|>": 200_004,
  "<|header_start|>": 200_005,
  "<|header_end|>": 200_006,
  "<|eom|>": 200_007,
  "<|eot|>": 200_008,
}
_GPT4O = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}
_START, _STOP = "<|begin_of_text|>", "<|end_of_text|>"

# By the number of ranks.
_KINDS = {
  50_256: _Kind("gpt2", _END, None, "<|endoftext|>", 50_257),  # gpt2, r50k_base
  50_280: _Kind("gpt2", _END, None, "<|endoftext|>", 50_281, gap=50_256),  # p50k_base
  100_256: _Kind("cl100k_base", _GPT4, None, "<|endoftext|>", 100_277),
  128_000: _Kind("llama3", _LLAMA3, _START, _STOP, 128_256),
  199_998: _Kind("o200k_base", _GPT4O, None, "<|endoftext|>", 200_019),
  200_000: _Kind("o200k_base", _LLAMA4, _START, _STOP, 202_048),
}
_WITHOUT_SPECIALS = _Kind("llama3", {}, None, "", 0)
# tiktoken's regular expressions panic after a million steps of backtracking.
_MAX_WHITE_SPACE = 900_000
_LONG_WHITE_SPACE = re.compile(rf"\s{{{_MAX_WHITE_SPACE}}}")


def is_ranks(content: bytes) -> bool:
  """Whether the first line of a file is a token and its rank."""
  token, _, rank = content.partition(b"\n")[0].strip().partition(b" ")
  return bool(token) and rank.isdigit()


def read(
  path: str, content: bytes, sha256: str, parse_special_tokens: bool, pattern: str | None
) -> Vocabulary:
  """The vocabulary of a file of ranks; UserError if it is damaged or its pattern is unknown."""
  tiktoken = import_for("tiktoken", path)
  ranks = _ranks(path, content)
  kind = _KINDS.get(len(ranks), _WITHOUT_SPECIALS)
  _check_complete(path, ranks, kind.gap)
  make = failing_as_user_error(
    lambda words: tiktoken.Encoding(
      Path(path).name, pat_str=words, mergeable_ranks=ranks, special_tokens=dict(kind.specials)
    ),
    "tokenizer_pattern is no regular expression that tiktoken reads:",
  )
  encoding = make(_words(path, len(ranks), pattern))
  pieces = [b""] * max(kind.vocab_size, max(ranks.values()) + 1)
  for token, rank in ranks.items():
    pieces[rank] = token
  facts: dict[str, Any] = {"tokenizer_sha256": sha256}
  if pattern is not None:
    facts["tokenizer_pattern"] = PATTERNS.get(pattern, pattern)
  if parse_special_tokens:
    facts["special_tokens"] = "parsed"
  return FileVocabulary(
    pieces,
    path=path,
    bos_id=kind.specials.get(kind.bos or ""),
    eos_id=kind.specials.get(kind.eos),
    encode=_encode(encoding, kind.specials if parse_special_tokens else {}),
    facts=facts,
  )


def _ranks(path: str, content: bytes) -> dict[bytes, int]:
  try:
    lines = [line.split() for line in content.splitlines() if line]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
  except (binascii.Error, ValueError):
    raise UserError(f"{path} is no file of BPE ranks: lines of base64 and a number") from None
  if len(ranks) != len(lines) or b"" in ranks:
    raise UserError(f"{path} is no file of BPE ranks: a token is empty or double")
  return ranks


def _check_complete(path: str, ranks: Mapping[bytes, int], gap: int | None) -> None:
  """Raises UserError unless all 256 bytes and all ranks from 0 on, except `gap`, are there."""
  expected = [rank for rank in range(len(ranks) + (gap is not None)) if rank != gap]
  missing = any(bytes([byte]) not in ranks for byte in range(256))
  if missing or sorted(ranks.values()) != expected:
    raise UserError(f"{path} is no file of BPE ranks: bytes or ranks are missing or double")


def _words(path: str, num_ranks: int, pattern: str | None) -> str:
  """The regular expression that splits text into words, within which bytes are merged."""
  if pattern is not None:
    if pattern not in PATTERNS and "\\" not in pattern:
      raise UserError(
        f"tokenizer_pattern={shown(pattern)} is neither a name nor a regular expression with "
        f"classes such as \\p{{L}}; {did_you_mean(pattern, PATTERNS)}"
      )
    return PATTERNS.get(pattern, pattern)
  if num_ranks in _KINDS:
    return PATTERNS[_KINDS[num_ranks].pattern]
  if num_ranks == 256:  # bytes alone: nothing is merged, so any pattern does
    return _LLAMA3_WORDS
  raise UserError(
    f"the tokenizer {path} has {num_ranks:,} BPE ranks, which is the number of none that is "
    "known here, and the file does not say how text is split into words: name the pattern, "
    f"tokenizer_pattern={' or '.join(PATTERNS)}, or give its regular expression (there will be "
    "no BOS and no EOS)"
  )


def _encode(encoding: Any, specials: Mapping[str, int]) -> Callable[[str], Sequence[int]]:
  def encode(text: str) -> Sequence[int]:
    if len(text) > _MAX_WHITE_SPACE and _LONG_WHITE_SPACE.search(text):
      raise ValueError(
        f"it has {_MAX_WHITE_SPACE:,} characters of white space in a row, or more"
      )
    if not specials:
      return encoding.encode_ordinary(text)
    return encoding.encode(text, allowed_special=set(specials), disallowed_special=())

  return encode
