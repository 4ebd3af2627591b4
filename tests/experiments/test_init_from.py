"""init_from on the command line: a stage of training begins with the stage before it."""

import json

import numpy as np
import pytest

from experiments.command_line import main
from input_pipelines.packing import PackedRows
from tests.runners.toy_run import LETTERS, ToyText

TINY = (
  "--exp=lwm.TextLlamaDebug",
  "--set=model.model_dim=32",
  "--set=model.num_layers=1",
  "--set=model.block.attention.num_heads=1",
  "--set=model.block.feed_forward.hidden_dim=64",
  "--set=model.vocab_size=260",
  "--set=writers=[@JsonLines()]",
  "--set=log_every=1",
  "--set=eval_every=None",
)


class Refrain(ToyText):
  """One document: the letters in a random order, again and again."""

  def packed_rows(self, sequence_length: int) -> PackedRows:
    order = np.random.default_rng(0).permutation(len(LETTERS)).astype(np.uint8)
    tokens = np.tile(order, 3000)
    return PackedRows(tokens, np.array([0, len(tokens)]), sequence_length)


@pytest.fixture
def runner(tmp_path, monkeypatch, capsys):
  """Runs the command line in this process, in an empty folder: (code, stdout, stderr)."""
  monkeypatch.chdir(tmp_path)

  def call(*arguments):
    code = main(["runner", *arguments])
    return code, *capsys.readouterr()

  return call


def losses(workdir):
  return [json.loads(line)["train/loss"] for line in (workdir / "metrics.jsonl").open()]


def test_a_stage_whose_stage_before_is_not_there_is_one_line(runner, tmp_path):
  code, out, err = runner("--exp=lwm.TextLlama7B32K")
  assert (code, out) == (2, "")
  assert err.startswith("runner: error: ") and len(err.splitlines()) == 1
  assert "no such run or checkpoint folder: runs/lwm.TextLlama7B" in err
  assert "--set=init_from=None" in err and not list(tmp_path.iterdir())


LISTS = """\
  loaded    12
    params/embedding/table  260x32
    params/final_norm/scale  32
    params/head/projection/kernel  32x260
    params/stack/layers/attention/key/kernel  1x32x1x32
    params/stack/layers/attention/out/kernel  1x1x32x32
    params/stack/layers/attention/query/kernel  1x32x1x32
    params/stack/layers/attention/value/kernel  1x32x1x32
    params/stack/layers/attention_norm/scale  1x32
    params/stack/layers/feed_forward/down/kernel  1x64x32
    params/stack/layers/feed_forward/gate/kernel  1x32x64
    params/stack/layers/feed_forward/up/kernel  1x32x64
    params/stack/layers/feed_forward_norm/scale  1x32
  missing   0
  unused    0
"""


@pytest.mark.slow
def test_2k_of_theta_1e4_is_extended_to_8k_of_theta_1e6(runner, tmp_path):
  data = (f"--set=train_data=@{__name__}:Refrain", "--set=eval_data={}")
  stage = ("--set=sequence_length=2048", "--set=batch_size=1", "--set=num_steps=12")
  rate = "--set=optimizer.learning_rate.peak=2e-2"
  code, _, err = runner(*TINY, *data, *stage, rate, "--workdir=short")
  assert code == 0, err
  stage = ("--set=sequence_length=8192", "--set=batch_size=1", "--set=num_steps=1")
  theta = "--set=model.block.attention.rotary.theta=1e6"
  code, out, err = runner(
    *TINY, *data, *stage, theta, "--set=init_from=short", "--workdir=long"
  )
  assert code == 0, err
  assert out.startswith(f"init_from   {tmp_path / 'short' / 'checkpoints' / '12'}\n{LISTS}")
  first, *_, last = losses(tmp_path / "short")
  (began,) = losses(tmp_path / "long")  # before the first update
  assert first > 5.5 and last < 2.5
  assert began == pytest.approx(last, abs=0.2)
