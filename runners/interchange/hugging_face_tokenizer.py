"""The tokenizer of an exported run, as files that transformers' AutoTokenizer reads.

Byte and character vocabularies become a tokenizer.json with the run's ids. A tokenizer that the
run read from a file is copied. Any other tokenizer is only described in a README.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from input_pipelines.vocabularies import ByteVocabulary, CharacterVocabulary, Vocabulary

JSON, CONFIG, README = "tokenizer.json", "tokenizer_config.json", "README.md"
_BOS, _EOS, _UNKNOWN = "<s>", "</s>", "<unk>"

_HEAD = """\
# {title}

Exported by Strata (`runner export`): config.json, safetensors and {what}.

{how}
"""
_BYTES = """\
An id is a byte of UTF-8 plus 3, after 0 (begins a text, and padding), 1 (ends a text) and 2
(unknown, never used). The tokenizer writes 0 in front of a text, as the run did; with
`add_special_tokens=False` it does not. `</s>` within a text is four characters, no special."""
_CHARACTERS = """\
An id is the place of a character among the {count} of the training text, sorted, from 0. There
is no padding, no id that begins or ends a text, and none for another character, which is an
error."""
_FILE = "The tokenizer is {path} as the run read it."
_OTHER = """\
The run's tokenizer, {kind}{path}, is not written here. Make ids with it, for example in Python

    from runners.configs.files import load
    import fiddle as fdl
    vocabulary = fdl.build(load("{workdir}").config.train_data).vocabulary()
    vocabulary.encode("text"), vocabulary.decode([1, 2])

and {start}."""
_UNKNOWN_HOW = "Which ids stand for which text is not known here: {reason}."


def tokenizer_files(data: Any, workdir: str) -> dict[str, bytes]:
  """Name -> contents of the files that an export writes beside the model.

  Args:
    data: the run's training data, built.
    workdir: the run's folder, for the README.

  Raises:
    UserError: the vocabulary is made from data that are gone.
  """
  vocabulary, first = data.vocabulary(), data.document_start()
  if isinstance(vocabulary, ByteVocabulary):
    how, files = _BYTES, _of_bytes(first)
  elif isinstance(vocabulary, CharacterVocabulary):
    how = _CHARACTERS.format(count=vocabulary.vocab_size)
    files = _of_characters(vocabulary)
  elif file := _file_of(data):
    how, files = _FILE.format(path=file), _copies(file)
  else:
    how, files = _other(data, vocabulary, first, workdir), {}
  return {**files, README: _readme(workdir, "a tokenizer" if files else "no tokenizer", how)}


def unknown_tokenizer(workdir: str, reason: str) -> dict[str, bytes]:
  """The README for a run whose vocabulary is not available."""
  how = _UNKNOWN_HOW.format(reason=reason)
  return {README: _readme(workdir, "no tokenizer", how)}


def _readme(workdir: str, what: str, how: str) -> bytes:
  title = Path(workdir).absolute().name
  return _HEAD.format(title=title, what=what, how=how).encode()


def _of_bytes(first: int | None) -> dict[str, bytes]:
  specials = {_BOS: 0, _EOS: 1, _UNKNOWN: 2}
  # GPT-2's letters for bytes: printable bytes as they are, the others from U+0100 on.
  plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in plain]
  letters = dict(zip(plain + others, [*plain, *range(256, 256 + len(others))], strict=True))
  model = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "vocab": specials | {chr(letters[byte]): byte + len(specials) for byte in range(256)},
    "merges": [],
  }
  byte_level = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
  }
  begins = first is not None
  described = _described(
    model, byte_level, byte_level, specials, _template() if begins else None
  )
  names = {"bos_token": _BOS} if begins else {}
  return _files(
    described, {**names, "eos_token": _EOS, "unk_token": _UNKNOWN, "pad_token": _BOS}
  )


def _of_characters(vocabulary: CharacterVocabulary) -> dict[str, bytes]:
  # The unknown token is not in the vocabulary: a foreign character is an error, as in the run.
  vocab = {character: i for i, character in enumerate(vocabulary.characters)}
  model = {"type": "WordLevel", "vocab": vocab, "unk_token": _UNKNOWN}
  split = {
    "type": "Split",
    "pattern": {"Regex": r"[\s\S]"},
    "behavior": "Isolated",
    "invert": False,
  }
  return _files(_described(model, split, {"type": "Fuse"}, {}, None), {})


def _described(
  model: dict[str, Any],
  pre_tokenizer: dict[str, Any],
  decoder: dict[str, Any],
  specials: dict[str, int],
  post_processor: dict[str, Any] | None,
) -> dict[str, Any]:
  """A tokenizer.json."""
  flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
      {"id": i, "content": token, **flags, "special": True} for token, i in specials.items()
    ],
    "normalizer": None,
    "pre_tokenizer": pre_tokenizer,
    "post_processor": post_processor,
    "decoder": decoder,
    "model": model,
  }


def _template() -> dict[str, Any]:
  """A post-processor that puts the begin-of-document token in front of a text."""
  begin = {"SpecialToken": {"id": _BOS, "type_id": 0}}
  text = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
  return {
    "type": "TemplateProcessing",
    "single": [begin, text("A", 0)],
    "pair": [begin, text("A", 0), text("B", 1)],
    "special_tokens": {_BOS: {"id": _BOS, "ids": [0], "tokens": [_BOS]}},
  }


def _files(described: dict[str, Any], specials: dict[str, str]) -> dict[str, bytes]:
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,  # a special's name in a text is text
    **specials,
  }
  text: Callable[[Any], bytes] = lambda value: (json.dumps(value, indent=2) + "\n").encode()
  return {JSON: text(described), CONFIG: text(config)}


def _file_of(data: Any) -> Path | None:
  """The data's tokenizer file, if transformers can read it."""
  named = getattr(data, "tokenizer", None)
  file = Path(named).expanduser() if isinstance(named, str) else None
  return file if file is not None and file.suffix == ".json" and file.is_file() else None


def _copies(file: Path) -> dict[str, bytes]:
  beside = file.with_name(CONFIG)
  return {JSON: file.read_bytes()} | ({CONFIG: beside.read_bytes()} if beside.is_file() else {})


def _other(data: Any, vocabulary: Vocabulary, first: int | None, workdir: str) -> str:
  named = getattr(data, "tokenizer", None)
  return _OTHER.format(
    kind=type(vocabulary).__name__,
    path=f" ({named})" if isinstance(named, str) else "",
    workdir=workdir,
    start="put nothing in front" if first is None else f"put {first} in front of a text",
  )
