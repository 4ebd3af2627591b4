"""Tokenizers of Hugging Face: tokenizer.json, read, encoded and decoded by `tokenizers`.

Ids and text are the library's own. Three things are added here: text stays text (special tokens
in it are encoded as characters), text that the library would drop is an error, and each token's
number of bytes of text is known if the file allows it.
"""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipelines.file_vocabulary import FileVocabulary, failing_as_user_error, import_for
from input_pipelines.foreign_json import Document, parse_json, read_document
from input_pipelines.token_pieces import (
  extra_bytes,
  has_byte_pieces,
  is_byte_level,
  is_whole_alphabet,
  piece_reader,
)
from input_pipelines.vocabularies import Vocabulary
from layers.errors import UserError, shown

CONFIG = "tokenizer_config.json"  # beside a tokenizer.json
MAX_UNUSED_IDS = 2**16  # gaps allowed below the largest id: each id takes memory

# BOS and EOS are in tokenizer_config.json; without that file these usual names are tried.
_USUAL_BOS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>")
_USUAL_EOS = ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>")
_NEVER = "\uffff"  # not a character, so it is in no text
_LOST = 2**31 - 1  # the id given to text without a token
_TRIED_IDS = 1000


def read(path: str, content: bytes, sha256: str, parse_special_tokens: bool) -> Vocabulary:
  """The vocabulary of a tokenizer.json; UserError if the file is not one."""
  import_for("tokenizers", path)
  tokenizer = _tokenizer(content, path)
  ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
  if not ids:
    raise UserError(f"{path} is no tokenizer.json: its vocabulary is empty")
  if max(ids.values()) >= len(ids) + MAX_UNUSED_IDS:
    raise UserError(
      f"{path} has {len(ids):,} tokens and the id {max(ids.values()):,}: more than "
      f"{MAX_UNUSED_IDS:,} ids without a token are not read"
    )
  described = json.loads(tokenizer.to_str())  # has the right types, unlike the file perhaps
  config = _config_beside(path)
  bos_id = _special_id(config, "bos_token", _USUAL_BOS, ids)
  eos_id = _special_id(config, "eos_token", _USUAL_EOS, ids)
  decoder = json.dumps(described["decoder"])
  if has_byte_pieces(described) and decoder != "null" and '"ByteFallback"' not in decoder:
    _decode_bytes(tokenizer)
  read_piece = piece_reader(described)
  pieces = _pieces(described, ids, read_piece or str.encode)
  return FileVocabulary(
    pieces,
    path=path,
    bos_id=bos_id,
    eos_id=eos_id,
    encode=_encoder(tokenizer, described, ids, {bos_id, eos_id}, parse_special_tokens, path),
    decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
    counts_bytes=read_piece is not None,
    extra_bytes=extra_bytes(described),
    # Older stores, from before this choice, hold special tokens for such text.
    facts={
      "tokenizer_sha256": sha256,
      "special_tokens": "parsed" if parse_special_tokens else "text",
    },
  )


def _decode_bytes(tokenizer: Any) -> None:
  """Makes the decoder join byte pieces such as `<0xE6>` into characters."""
  from tokenizers import decoders

  tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), tokenizer.decoder])


def ids_in_front(path: str) -> tuple[int, ...]:
  """The ids that the tokenizer puts in front of a text: BOS for LLaMA, none for GPT-2."""
  tokenizer = _tokenizer(Path(path).read_bytes(), path)

  def front(text: str) -> tuple[int, ...] | None:
    encoding = tokenizer.encode(text)
    of_text = [n for n, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    return tuple(encoding.ids[: of_text[0]]) if of_text else None

  # Any text that has a token shows them, but a tokenizer may lack one for "a".
  for text in ("a", *(tokenizer.decode([i]) for i in range(_TRIED_IDS))):
    try:
      ids = failing_as_user_error(front, "cannot encode")(text)
    except UserError:
      continue
    if ids is not None:
      return ids
  return ()


def _tokenizer(content: bytes, path: str) -> Any:
  tokenizers = import_for("tokenizers", path)
  _check_merges(parse_json(content, path), path)
  make = failing_as_user_error(
    lambda _: tokenizers.Tokenizer.from_str(content.decode("utf-8-sig")), path
  )
  try:
    tokenizer = make(None)
  except UserError as error:
    reason = str(error).removeprefix(f"{path} it: ")
    raise UserError(f"{path} is no tokenizer.json: {reason}") from None
  tokenizer.no_truncation()  # the file may ask for it, and text would be lost
  tokenizer.no_padding()
  if hasattr(tokenizer.model, "dropout"):
    tokenizer.model.dropout = None  # ids would be random
  return tokenizer


def _check_merges(described: Any, path: str) -> None:
  """Raises UserError for merges that crash the library, which strips the prefix unchecked."""
  model = described.get("model") if isinstance(described, dict) else None
  prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
  merges = model.get("merges") if isinstance(model, dict) else None
  if not prefix or not isinstance(merges, list):
    return
  for merge in merges:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    second = pair[-1] if isinstance(pair, list) and pair else None
    if not isinstance(second, str) or not second.startswith(str(prefix)):
      raise UserError(
        f"{path} is no tokenizer.json: the merge {shown(str(merge))} continues a word without "
        f"continuing_subword_prefix={shown(str(prefix))}"
      )


def _pieces(
  described: Mapping[str, Any], ids: Mapping[str, int], read_piece: Callable[[str], bytes]
) -> list[bytes]:
  """The bytes of text that each id stands for."""
  pieces = [b""] * (max(ids.values()) + 1)
  for text, i in ids.items():
    pieces[i] = read_piece(text)
  for token in described["added_tokens"]:
    if token["special"]:
      pieces[token["id"]] = b""
    elif is_byte_level(described):  # added tokens are not in GPT-2's alphabet
      pieces[token["id"]] = token["content"].encode()
  return pieces


def _encoder(
  tokenizer: Any,
  described: dict[str, Any],
  ids: Mapping[str, int],
  framing: set[int | None],
  parse_special_tokens: bool,
  path: str,
) -> Callable[[str], Sequence[int]]:
  """A function from text to ids; ValueError if some text would be lost, or become special."""
  before = json.dumps(described)
  names_the_lost = _name_the_lost(described, ids, framing)
  specials = {} if parse_special_tokens else _specials(described, ids, framing)
  _rename(described["model"], specials)
  edited = json.dumps(described)
  if edited != before:
    tokenizer = _tokenizer(edited.encode(), path)
  tokenizer.encode_special_tokens = not parse_special_tokens
  never = frozenset(specials.values())
  # An added token that the renamed model lacks may get another id; `moved` maps it back.
  numbers: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
  ordinary = _added(described) - specials.keys()
  moved = {numbers[text]: ids[text] for text in ordinary if numbers[text] != ids[text]}

  def encode(text: str) -> Sequence[int]:
    encoding = tokenizer.encode(text, add_special_tokens=False)
    found: list[int] = encoding.ids
    if names_the_lost and _LOST in found:
      start, end = encoding.offsets[found.index(_LOST)]
      raise ValueError(f"it has no token for {shown(text[start:end])}, nor for what is unknown")
    if not never.isdisjoint(found):
      special = next(text for text, i in specials.items() if i in found)
      raise ValueError(
        f"its special token {shown(special)} is a piece of ordinary text too; mend the "
        "tokenizer, or set parse_special_tokens=True"
      )
    return [moved[i] if i in moved else i for i in found] if moved else found

  return encode


def _name_the_lost(
  described: dict[str, Any], ids: Mapping[str, int], framing: set[int | None]
) -> bool:
  """Adds a token for text that the library would drop silently; returns whether it is needed.

  The library drops characters that a BPE model lacks if there is no unknown token. If that
  token is also BOS or EOS, such characters would end the document.
  """
  model = described["model"]
  unknown = _unknown_id(model, ids)
  if model["type"] != "BPE" or unknown is not None and unknown not in framing:
    return False
  if is_whole_alphabet(described):
    return False
  model["vocab"][_NEVER] = _LOST
  model["unk_token"] = _NEVER
  return True


def _specials(
  described: dict[str, Any], ids: Mapping[str, int], framing: set[int | None]
) -> dict[str, int]:
  """Text -> id of the special tokens, BOS and EOS included, that text must not become."""
  for token in described["added_tokens"]:
    token["special"] |= token["id"] in framing
  unknown = {_unknown_id(described["model"], ids)} - framing
  special = [token for token in described["added_tokens"] if token["special"]]
  return {token["content"]: token["id"] for token in special if token["id"] not in unknown}


def _added(described: Mapping[str, Any]) -> set[str]:
  return {token["content"] for token in described["added_tokens"]}


def _unknown_id(model: Mapping[str, Any], ids: Mapping[str, int]) -> int | None:
  if model["type"] == "Unigram":
    return model.get("unk_id")
  return ids.get(model.get("unk_token") or "")


def _rename(model: dict[str, Any], specials: Mapping[str, int]) -> None:
  """Hides special tokens from the model, so that it does not find them in a text.

  T5's model, for example, has the piece `</s>`, which a text with these four characters would
  become.
  """
  if model["type"] == "Unigram":
    model["vocab"] = [[_hidden(text, specials), score] for text, score in model["vocab"]]
    return
  merges = model.get("merges") or ()
  merged = {piece for merge in merges for piece in (*merge, "".join(merge))}
  hidden = {text for text in specials if text not in merged}
  model["vocab"] = {_hidden(text, hidden): i for text, i in model["vocab"].items()}
  if model.get("unk_token"):
    model["unk_token"] = _hidden(model["unk_token"], hidden)


def _hidden(text: str, hidden: Container[str]) -> str:
  return _NEVER + text if text in hidden else text


def _config_beside(path: str) -> Document | None:
  file = Path(path).with_name(CONFIG)
  return read_document(file) if file.is_file() else None


def _special_id(
  config: Document | None, key: str, usual: tuple[str, ...], ids: Mapping[str, int]
) -> int | None:
  if config is None:
    return next((ids[token] for token in usual if token in ids), None)
  if isinstance(config.values.get(key), dict):
    token = config.document(key).text("content")
  else:
    token = config.text(key, None)
  return None if token is None else ids.get(token)
