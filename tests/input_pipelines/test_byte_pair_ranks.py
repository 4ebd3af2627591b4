"""Files of ranks give their own library's ids, or the user is asked how they split text."""

import base64

import pytest

from input_pipelines.byte_pair_ranks import PATTERNS
from input_pipelines.tokenizer_files import load_tokenizer
from layers.errors import UserError

TEXT = "Naïve café: the quick brown fox, 東京 🙂\n\tjumps  over 12345 dogs' tails."

# llama_models/llama4/tokenizer.py of https://github.com/meta-llama/llama-models
LLAMA4_WORDS = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
  r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_ranks(path, pairs=(b"th", b"the", b" q")):
  tokens = [bytes([byte]) for byte in range(256)] + list(pairs)
  lines = (f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens))
  path.write_text("".join(lines))
  return str(path)


@pytest.mark.parametrize("name", ["t.tiktoken", "tokenizer.model"])
def test_bpe_ranks_merge_by_rank(tmp_path, name):
  pytest.importorskip("tiktoken")
  vocabulary = load_tokenizer(save_ranks(tmp_path / name), pattern="llama3")
  assert vocabulary.encode("the q").tolist() == [257, 258]
  assert vocabulary.encode("<|endoftext|>").size == 13  # text, whatever it looks like
  ids = vocabulary.encode(TEXT)
  assert vocabulary.decode(ids) == TEXT and vocabulary.vocab_size == 259
  assert vocabulary.token_bytes()[ids].sum() == len(TEXT.encode())
  assert vocabulary.bos_id is None is vocabulary.eos_id


def test_ranks_of_a_known_number_have_the_specials_that_belong_to_them(tmp_path):
  pytest.importorskip("tiktoken")
  more = [i.to_bytes(4, "big") for i in range(50_256 - 256)]
  vocabulary = load_tokenizer(save_ranks(tmp_path / "gpt2.tiktoken", more))
  assert (vocabulary.bos_id, vocabulary.eos_id) == (None, 50_256)
  assert vocabulary.vocab_size == 50_257 and vocabulary.decode([97, 50_256]) == "a"


@pytest.mark.parametrize(
  "name, num_ranks", [("r50k_base", 50_256), ("cl100k_base", 100_256), ("o200k_base", 199_998)]
)
def test_ranks_of_a_known_number_split_text_as_their_own_library(
  tmp_path, monkeypatch, name, num_ranks
):
  tiktoken = pytest.importorskip("tiktoken")
  known = pytest.importorskip("tiktoken_ext.openai_public")
  joined = sorted({a + b for a in " \n\t'.1aS" for b in " \n\t'.1aS"})
  pairs = [text.encode() for text in [*joined, "123", "1234", "aS'S", "\n \t"]]
  pairs += [b"\xff" + i.to_bytes(4, "big") for i in range(num_ranks - 256 - len(pairs))]
  path = save_ranks(tmp_path / "t.tiktoken", pairs)
  ranks = {token: i for i, token in enumerate([*(bytes([i]) for i in range(256)), *pairs])}
  monkeypatch.setattr(known, "load_tiktoken_bpe", lambda *_, **__: ranks)
  reference = tiktoken.Encoding(**getattr(known, name)())
  vocabulary = load_tokenizer(path)
  for text in (TEXT, "a1234's \n\t", "aS'S a\n\n a", " \n \t\n ", "It's 12345. \t\n \t"):
    assert vocabulary.encode(text).tolist() == reference.encode_ordinary(text)
  assert vocabulary.eos_id == reference.eot_token
  assert vocabulary.vocab_size == reference.n_vocab


def test_what_an_unknown_number_of_ranks_splits_text_by_has_to_be_said(tmp_path):
  pytest.importorskip("tiktoken")
  path = save_ranks(tmp_path / "t.tiktoken")
  with pytest.raises(UserError, match="has 259 BPE ranks, .* tokenizer_pattern=gpt2 or cl100k"):
    load_tokenizer(path)
  for pattern, message in (
    ("lama3", "'lama3' is neither a name nor .* did you mean llama3"),
    (r"\p{", "is no regular expression that tiktoken reads: "),
  ):
    with pytest.raises(UserError, match=message) as raised:
      load_tokenizer(path, pattern=pattern)
    assert "\n" not in str(raised.value)
  named = load_tokenizer(path, pattern="gpt2")
  assert named.fingerprint() != load_tokenizer(path, pattern="llama3").fingerprint()
  assert named.fingerprint() == load_tokenizer(path, pattern=PATTERNS["gpt2"]).fingerprint()


def test_bytes_alone_need_no_pattern(tmp_path):
  pytest.importorskip("tiktoken")
  vocabulary = load_tokenizer(save_ranks(tmp_path / "t.tiktoken", ()))
  assert vocabulary.encode("'Ll 12").tolist() == list(b"'Ll 12")


def test_ranks_may_leave_out_the_one_that_p50k_base_leaves_out_and_no_other(tmp_path):
  pytest.importorskip("tiktoken")
  more = [b"\xff" + i.to_bytes(4, "big") for i in range(50_281 - 256)]
  path = tmp_path / "p50k_base.tiktoken"
  save_ranks(path, more)
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(line for line in lines if not line.endswith(" 50256\n")))
  vocabulary = load_tokenizer(str(path))
  assert vocabulary.vocab_size == 50_281 and vocabulary.eos_id == 50_256
  assert vocabulary.pieces()[50_256] == b"" and vocabulary.pieces()[50_280] == more[-1]
  path.write_text("".join(line for line in lines if not line.endswith(" 40000\n")))
  with pytest.raises(UserError, match="bytes or ranks are missing or double"):
    load_tokenizer(str(path))


def test_llama_4_splits_text_as_it_does_itself_and_has_its_own_ends(tmp_path):
  tiktoken = pytest.importorskip("tiktoken")
  joined = sorted({a + b for a in " \n\t'.1aSé/" for b in " \n\t'.1aSé/"})
  pairs = [text.encode() for text in [*joined, "123", "1234", "aS'S", "\n \t", "//\n"]]
  pairs = [pair for pair in pairs if len(pair) > 1]
  pairs += [b"\xff" + i.to_bytes(4, "big") for i in range(200_000 - 256 - len(pairs))]
  vocabulary = load_tokenizer(save_ranks(tmp_path / "tokenizer.model", pairs))
  ranks = {token: i for i, token in enumerate([*(bytes([i]) for i in range(256)), *pairs])}
  reference = tiktoken.Encoding(
    "llama4", pat_str=LLAMA4_WORDS, mergeable_ranks=ranks, special_tokens={}
  )
  for text in (TEXT, "aSS aS'S", "Sa.//\n/a", "1234's\n\n a", " \n \t", "éSé Saé"):
    assert vocabulary.encode(text).tolist() == reference.encode_ordinary(text)
  assert (vocabulary.bos_id, vocabulary.eos_id) == (200_000, 200_001)
  assert vocabulary.vocab_size == 202_048


@pytest.mark.parametrize("space", [" ", "\n", "\N{NO-BREAK SPACE}"])
def test_more_white_space_than_its_library_can_split_is_the_users_error(tmp_path, capfd, space):
  pytest.importorskip("tiktoken")
  vocabulary = load_tokenizer(save_ranks(tmp_path / "t.tiktoken"), pattern="gpt2")
  with pytest.raises(UserError, match="cannot encode .*900,000 characters of white space"):
    vocabulary.encode("a" + space * 1_000_001 + "b")
  assert capfd.readouterr().err == ""
  assert vocabulary.decode(vocabulary.encode("a" + space * 800_000)) == "a" + space * 800_000
