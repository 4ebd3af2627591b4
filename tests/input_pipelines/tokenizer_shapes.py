"""Small tokenizer.json files of every shape in use, and texts to try them on."""

import json
import random

import tokenizers
from tokenizers import (
  Regex,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
  trainers,
)

SPECIALS = ["<unk>", "<s>", "</s>"]
PARTS = [
  *("the", "quick", "fox", "def f(x):", "return", "é", "e\N{COMBINING ACUTE ACCENT}", "東京"),
  *(
    "🙂",
    "👩\N{ZERO WIDTH JOINER}💻",
    "ﬁ",
    "½",
    "Straße",
    "ΑΒΓ",
    "مرحبا",
    "12345",
    "3.14",
    "don't",
  ),
  *(
    " ",
    "  ",
    "    ",
    "        ",
    "\n",
    "\n\n\n",
    "\r\n",
    "\t",
    "\N{NO-BREAK SPACE}",
    ",",
    ".",
  ),
  *(
    "</s>",
    "<s>",
    "<|endoftext|>",
    "</w>",
    "##ing",
    "[CLS]",
    "<0x0A>",
    "▁",
    "Ġ",
    "{",
    "}",
    "--",
  ),
]
CORPUS = [
  "the quick brown fox jumps over the lazy dog, isn't it?",
  "def f(x):\n    return x\n        if x:\n\n",
  "naïve café 東京 12345",
] * 30


def texts(count=2000, seed=0):
  """Code, runs of spaces, combining characters, emoji, text like special tokens; and none."""
  draw = random.Random(seed)
  made = ["".join(draw.choices(PARTS, k=draw.randrange(1, 12))) for _ in range(count - 1)]
  return ["", *made]


def _trained(tokenizer, alphabet=(), more=(), **options):
  trainer = trainers.BpeTrainer(
    vocab_size=600 + len(more),
    special_tokens=SPECIALS,
    initial_alphabet=list(alphabet),
    show_progress=False,
    **options,
  )
  tokenizer.train_from_iterator(CORPUS, trainer)
  described = json.loads(tokenizer.to_str())
  for piece in more:
    described["model"]["vocab"].setdefault(piece, len(described["model"]["vocab"]))
  return tokenizers.Tokenizer.from_str(json.dumps(described))


_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level():
  """GPT-2."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def split_byte_level():
  """LLaMA 3, Qwen: words by a regular expression, and NFC before it."""
  tokenizer = byte_level()
  tokenizer.normalizer = normalizers.NFC()
  words = Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(words, "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  return tokenizer


def byte_fallback(scheme="never"):
  """Mistral: a mark for each space, and bytes for what has no token."""
  tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
  tokenizer.decoder = decoders.Sequence(
    [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
  )
  return _trained(tokenizer, more=_BYTES)


def llama_2():
  """A space in front of each text, which its decoder takes away."""
  tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
  )
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace("▁", " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(content=" ", left=1),
    ]
  )
  return _trained(tokenizer, more=_BYTES)


def gemma():
  """Runs of spaces and line ends are added tokens that are not special."""
  tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
  tokenizer.normalizer = normalizers.Replace(" ", "▁")
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  tokenizer = _trained(tokenizer, more=_BYTES)
  runs = ["▁" * n for n in range(2, 9)] + ["\n" * n for n in range(1, 4)]
  tokenizer.add_tokens([tokenizers.AddedToken(run, normalized=True) for run in runs])
  return tokenizer


def word_piece():
  """BERT."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
  )
  tokenizer.train_from_iterator(CORPUS, trainer)
  return tokenizer


def word_level():
  tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
  tokenizer.train_from_iterator([*CORPUS, "</w> ##ing"], trainer)
  return tokenizer


def end_of_word():
  """The first GPT, CLIP: `</w>` ends a word."""
  tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
  return _trained(tokenizer, end_of_word_suffix="</w>")


def unigram():
  """T5: `</s>` is a piece of the model as well."""
  marked = [(f"▁{word}", -3.0) for word in ("the", "quick", "fox", "return")]
  letters = [(chr(code), -9.0) for code in range(33, 127)]
  pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -4.0), *marked, *letters]
  tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, 0))
  tokenizer.add_special_tokens(SPECIALS)
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 2)]
  )
  return tokenizer


LOSSLESS = [byte_level, byte_fallback, gemma]
WITH_A_SPACE_IN_FRONT = [llama_2]
WITHOUT_BYTES = [word_piece, word_level, end_of_word]
ALL = [*LOSSLESS, *WITH_A_SPACE_IN_FRONT, *WITHOUT_BYTES, split_byte_level, unigram]


def saved(shape, folder):
  """The path of a tokenizer.json of that shape, and what the library makes of it."""
  path = str(folder / "tokenizer.json")
  shape().save(path)
  return path, tokenizers.Tokenizer.from_file(path)
