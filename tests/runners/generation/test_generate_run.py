"""`runner generate` continues prompts with a run's own checkpoint and leaves the run as it was;
what cannot be continued is one line, with exit code 2, before a program is compiled.
"""

import json

import numpy as np
import pytest

from experiments.command_line import main
from layers.attention_cores.auto import auto_attention
from layers.errors import UserError
from runners.generation.prompt_tokens import PromptTokens, prompt_tokens
from runners.training import train
from runners.workdir import read_starts
from tasks.jsonl import Jsonl
from tasks.mixture import Mixture
from tasks.registered_task import RegisteredTask
from tests.runners.toy_run import LETTERS, ToyText, files_under, toy_config

CONTEXT = 12  # the toy's sequence_length


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "toy"
  train(toy_config(num_steps=1), "toy.Run", str(folder))
  return folder


@pytest.fixture
def generate(workdir, capsys):
  """Runs the command: (exit code, stdout, stderr)."""

  def run(*arguments, workdir=workdir):
    code = main(["runner", "generate", f"--workdir={workdir}", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err

  return run


def test_each_prompt_is_printed_with_what_follows_and_the_run_stays_as_it_was(
  workdir, generate
):
  before = files_under(workdir)
  code, out, _ = generate("--prompt=abc", "--prompt=q", "--temperature=0")
  assert code == 0
  title, first, _, other_title, second, _ = out.splitlines()
  # As many as the longest prompt leaves of the context; the last one needs no position.
  assert title == f"step 1  prompt 1  3 + {CONTEXT - 2} tokens"
  assert other_title == f"step 1  prompt 2  1 + {CONTEXT - 2} tokens"
  assert first.startswith("abc") and len(first) == 3 + CONTEXT - 2
  assert second.startswith("q") and set(first + second) <= set(LETTERS)
  assert files_under(workdir) == before


def test_max_tokens_is_kept_to_and_the_seed_decides(generate):
  how = ("--prompt=abc", "--max_tokens=7", "--temperature=5")
  one, same, other = (generate(*how, f"--seed={seed}")[1] for seed in (0, 0, 1))
  assert "3 + 7 tokens" in one
  assert one == same != other


def test_the_attention_core_is_on_record_and_no_notice_stands_before_the_text(
  generate, tmp_path, capsys
):
  config = toy_config(num_steps=1)
  config.model.block.attention.core = auto_attention
  train(config, "toy.Run", str(tmp_path))
  assert "Attention" not in "".join(capsys.readouterr())
  (start,) = read_starts(tmp_path)
  assert [note.split(":")[0] for note in start["ended"]["notes"]] == [
    "Attention is dense_attention"
  ]
  code, _, err = generate("--prompt=abc", workdir=tmp_path)
  assert (code, err) == (0, "")


MISTAKES = {
  ("--prompt=",): "the prompt is empty, and no token begins a document here",
  ("--prompt=abz",): "the character 'z' is not among the 19 characters of the training text",
  ("--prompt=a\udcff",): "the byte 0xff after 1 characters, which is no UTF-8",
  ("--prompt=" + "a" * 13,): "context of 12 tokens; shorten the prompt by 1 or more",
  ("--prompt=abc", "--max_tokens=11"): "context of 12 tokens; take max_tokens=10 at most",
  ("--prompt=a", "--step=9"): "toy has the steps [1]",
  ("--prompt=a", "--set=model.width=3"): "Decoder has no field 'width'",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda a: " ".join(a)[:40])
def test_what_cannot_be_continued_is_one_line(generate, arguments):
  code, out, err = generate(*arguments)
  assert (code, out, len(err.splitlines())) == (2, "", 1), err
  assert MISTAKES[arguments] in err


def test_a_run_without_a_checkpoint_says_so(workdir, generate, tmp_path):
  (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
  code, _, err = generate("--prompt=a", workdir=tmp_path)
  assert code == 2 and len(err.splitlines()) == 1 and "checkpoint" in err


def test_a_prompt_begins_as_the_documents_of_training_did(tmp_path):
  framed = prompt_tokens(Jsonl(), tmp_path, None)
  np.testing.assert_array_equal(framed.encode("a"), [0, ord("a") + 3])
  np.testing.assert_array_equal(framed.encode(""), [0])
  assert framed.end_ids == (1,)
  unframed = prompt_tokens(Jsonl(add_bos=False), tmp_path, None)
  np.testing.assert_array_equal(unframed.encode("a"), [ord("a") + 3])
  assert RegisteredTask().document_start() is None
  both = {"framed": Jsonl(), "unframed": Jsonl(add_bos=False)}
  assert Mixture(sources=both).document_start() is None
  assert Mixture(sources={"framed": Jsonl()}).document_start() == 0
  letters = prompt_tokens(ToyText(), tmp_path, None)
  assert letters == PromptTokens(vocabulary=letters.vocabulary)


def test_an_imported_model_says_itself_what_ends_a_text_and_how_long_it_may_be(tmp_path):
  theirs = tmp_path / "hugging_face"
  theirs.mkdir()
  config = {"eos_token_id": 3, "max_position_embeddings": 77}
  (theirs / "config.json").write_text(json.dumps(config))
  tokens = prompt_tokens(Jsonl(), tmp_path, 259)
  assert (tokens.end_ids, tokens.context, tokens.first_ids) == ((3,), 77, (0,))
  (theirs / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 5]}))
  assert prompt_tokens(Jsonl(), tmp_path, 259).end_ids == (4, 5)
  with pytest.raises(UserError, match="has 300 ids, no tokenizer came with it"):
    prompt_tokens(Jsonl(), tmp_path, 300)
