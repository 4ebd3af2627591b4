"""Greedy tokens of an imported model are those of transformers' own `generate`, to the end of
the text, with the tokenizer that came with it.
"""

import re

import pytest

_CURE = "is not installed: pip install 'strata[parity]'"
torch = pytest.importorskip("torch", reason=f"PyTorch {_CURE}")
transformers = pytest.importorskip("transformers", reason=f"transformers {_CURE}")
tokenizers = pytest.importorskip("tokenizers", reason=f"tokenizers {_CURE}")
pytest.importorskip("safetensors", reason=f"safetensors {_CURE}")

from experiments.command_line import main  # noqa: E402

NUM_NEW = 64
PROMPTS = ["def main(", "A", "Once upon a time, there was"]
IDS = {"<s>": 0, "</s>": 1, **{chr(code): code - 31 for code in range(33, 127)}, "\u0120": 96}
BOTH = {"vocab_size": len(IDS), "bos_token_id": 0, "eos_token_id": 1}


def llama():
  return transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      hidden_size=48,
      intermediate_size=80,
      num_hidden_layers=2,
      num_attention_heads=6,
      num_key_value_heads=2,
      max_position_embeddings=128,
      **BOTH,
    )
  )


def gpt2():
  return transformers.GPT2LMHeadModel(
    transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=128, **BOTH)
  )


def tokenizer(*, begins: bool):
  """Letters as GPT-2's tokenizer writes them; LLaMA's also puts <s> in front."""
  made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=IDS, merges=[]))
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  made.add_special_tokens(["<s>", "</s>"])
  if begins:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single="<s> $A", special_tokens=[("<s>", 0)]
    )
  return made


def theirs(model, encode, decode):
  """What transformers continues each prompt with, alone."""
  texts = []
  for prompt in PROMPTS:
    ids = torch.asarray([encode(prompt).ids])
    with torch.no_grad():
      all_ids = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_NEW,
        do_sample=False,
        pad_token_id=0,
      )
    new = all_ids[0, ids.shape[1] :].tolist()
    texts.append((ids.shape[1], len(new), decode(new)))
  return texts


def ours(run, capsys):
  prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
  how = ("--temperature=0", f"--max_tokens={NUM_NEW}")
  assert main(["runner", "generate", f"--workdir={run}", *prompts, *how]) == 0
  found = re.findall(
    r"step 0  prompt \d  (\d+) \+ (\d+) tokens\n(.*)\n", capsys.readouterr().out
  )
  return [
    (int(read), int(new), text.removeprefix(prompt))
    for prompt, (read, new, text) in zip(PROMPTS, found, strict=True)
  ]


@pytest.mark.slow
@pytest.mark.parametrize("make", [llama, gpt2])
def test_64_greedy_tokens_are_those_of_transformers(make, tmp_path, capsys):
  torch.manual_seed(2)  # of llama's rows some end early, of gpt2's none
  model = make().eval()
  with torch.no_grad():
    for parameter in model.parameters():  # so that tokens depend on what came before
      parameter += 0.2 * torch.randn_like(parameter)
  letters = tokenizer(begins=make is llama)
  folder, run = tmp_path / "theirs", tmp_path / "run"
  model.save_pretrained(folder)
  letters.save(str(folder / "tokenizer.json"))
  assert main(["runner", "import", f"--from={folder}", f"--workdir={run}"]) == 0
  capsys.readouterr()
  want = theirs(model, letters.encode, letters.decode)
  got = ours(run, capsys)
  assert got == want
  lengths = [new for _, new, _ in got]
  assert max(lengths) == NUM_NEW and (min(lengths) < NUM_NEW) == (make is llama)
  assert len({text for *_, text in got}) == len(PROMPTS)


def test_ids_without_their_tokenizer_are_refused(tmp_path, capsys):
  folder, run = tmp_path / "theirs", tmp_path / "run"
  gpt2().save_pretrained(folder)
  assert main(["runner", "import", f"--from={folder}", f"--workdir={run}"]) == 0
  capsys.readouterr()
  assert main(["runner", "generate", f"--workdir={run}", "--prompt=a"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"the imported model has {len(IDS)} ids, no tokenizer came with it" in line
  (run / "hugging_face" / "tokenizer.json").write_text("{}")
  assert main(["runner", "generate", f"--workdir={run}", "--prompt=a"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "is no tokenizer.json" in line
