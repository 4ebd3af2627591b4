"""What a newcomer types by habit is answered with what to type here."""

import pytest

from layers.suggestions import nearest

NANO = "--exp=gpt2.Nano"

# arguments -> the end of the one line
SLIPS = {
  (NANO, "--num_steps=5"): "--set=num_steps=5",
  (NANO, "--learning_rate=1e-3"): "--set=optimizer.learning_rate.peak=1e-3",
  ("--exp", "gpt2.Nano", "--lr", "1e-3"): "--set=optimizer.learning_rate.peak=1e-3",
  ("--num_steps=5",): "--set=num_steps=5",
  (NANO, "--num_step=5"): "--set=num_steps=5",
  (NANO, "--batch-size=4"): "--set=batch_size=4",
  (NANO, "--batch_size", "4"): "--set=batch_size=4",
  (NANO, "--steps=10"): "--set=num_steps=10",
  (NANO, "--n_layer=2"): "--set=model.num_layers=2",
  (NANO, "--max_iters"): "--set=num_steps=VALUE",
  ("--exp=lwm.TextLlamaDebug", "--hidden_dim=8"): "model.block.feed_forward.hidden_dim=8",
  ("--experiment=gpt2.Nano",): "there is no flag --experiment: write --exp=gpt2.Nano",
  (NANO, "--cache-dir=x"): "write --cache_dir=x",
  (NANO, "--output_dir=x"): "write --workdir=x",
  (NANO, "--workdirr=x"): "did you mean --workdir?",
  (NANO, "--frobnicate=5"): "a field of the config is set with --set=PATH=VALUE",
  (NANO, "--seed=3"): "; that of the run is --set=seed=3",
  ("--exp=gpt2.nano",): "there is no experiment 'gpt2.nano': did you mean gpt2.Nano?",
  ("--exp=GPT2.NANO",): "did you mean gpt2.Nano?",
  ("show", NANO, "--set=optimizer=adam"): "did you mean @adamw?",
  ("show", NANO, "--set=optimizer=AdamW"): "did you mean @adamw?",
  ("show", NANO, "--set=optimizer=adamw"): "did you mean @adamw(...)?",
  ("show", NANO, "--set=optimizer=sgd"): "did you mean @sgdm?",
  ("show", NANO, "--set=optimizer.learning_rate=cosine"): "did you mean @warmup_cosine?",
  ("show", NANO, "--set=lr=1e-3"): "did you mean optimizer.learning_rate.peak?",
  ("show", NANO, "--set=n_layer=3"): "did you mean model.num_layers?",
  ("show", NANO, "--set", "num_steps", "5"): "write --set=num_steps=5",
  (
    "ckpt",
    "gpt2.Nano",
  ): "`runner ckpt ls gpt2.Nano` (verbs: ls, show and verify RUN, diff A B)",
  ("ckpt",): "which verb? `runner ckpt ls RUN`, show RUN, verify RUN or diff A B",
  ("ckpt", "lss", "gpt2.Nano"): "did you mean ls? (verbs: ls, show and verify RUN, diff A B)",
  ("train", "gpt2.Nano"): "write --exp=gpt2.Nano",
  ("eval", "gpt2.Nano"): "write --exp=gpt2.Nano",
  ("export", "gpt2.Nano"): "write --workdir=runs/gpt2.Nano",
  ("generate", NANO, "def", "main("): "write --prompt='def main('",
  ("evaluate", NANO): "did you mean eval?",
  ("run", NANO): "did you mean train?",
  ("sample", NANO): "did you mean generate?",
}


@pytest.mark.parametrize("arguments", SLIPS, ids=" ".join)
def test_a_slip_is_answered_with_what_to_type(arguments, run):
  code, out, (line,) = run(*arguments)
  assert code == 2 and out == "" and line.startswith("runner: error: ")
  assert line.endswith(SLIPS[arguments])


def test_the_versions_are_named_with_no_command(run):
  code, out, err = run("--version")
  assert code == 0 and err == []
  names = [line.split()[0] for line in out.splitlines()]
  assert names[:2] == ["strata", "jax"] and names[-1] == "python"


def test_a_word_that_is_wrong_in_case_alone_has_one_cure():
  assert nearest("gpt2.nano", ["gpt2.Nano", "gpt2.Nano2", "gpt3.Nano"]) == ["gpt2.Nano"]
