"""Data need no vocabulary, and every figure of them names what they are counted in."""

import json
import re

import fiddle as fdl
import pytest

from layers.errors import UserError
from runners.callbacks import EarlyStopping
from runners.checkpoints.retention import Checkpoints
from runners.devices.kernels import Kernel
from runners.evaluate_run import evaluate
from runners.generation.generate_run import Request, generate
from runners.interchange.hugging_face_export import export_folder
from runners.metrics.console import Console
from runners.metrics.json_lines import JsonLines
from runners.planning.ahead_of_time import plan_step
from runners.planning.plan import Plan, as_json
from runners.planning.report import report
from runners.preview import print_rows
from runners.training import train
from runners.workdir import read_starts
from tests.runners.toy_images import ToyImages, image_config
from tests.runners.toy_run import ToyText, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a finished run on images, and its config."""
  folder = tmp_path_factory.mktemp("images")
  writers = [fdl.Config(JsonLines), fdl.Config(Console)]
  config = image_config(log_every=1, writers=writers, checkpoints=fdl.Config(Checkpoints))
  train(config, "toy.Images", str(folder / "run"), cache_dir=str(folder / "cache"))
  return folder / "run", config


def test_a_run_on_images_counts_images(run):
  folder, _ = run
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  speeds = {name for row in rows for name in row if name.endswith("_per_s")}
  assert "perf/images_per_s" in speeds and "perf/tokens_per_s" not in speeds
  for row in rows:
    if "perf/images_per_s" in row:
      assert row["perf/images_per_s"] == pytest.approx(8 * row["perf/steps_per_s"])
  (start,) = read_starts(folder)
  assert start["images_per_step"] == 8 and "tokens_per_step" not in start


def test_the_console_names_images_and_text_is_in_tokens_as_ever(tmp_path, capsys):
  fields = {"log_every": 1, "writers": [fdl.Config(Console)], "num_steps": 2}
  train(image_config(**fields), "toy.Images", str(tmp_path / "images"))
  said = capsys.readouterr().out
  assert "2 steps, 8 images each" in said and re.search(r"  \S+ images/s  ", said)
  assert "token" not in said
  train(toy_config(**fields), "toy.Text", str(tmp_path / "text"))
  said = capsys.readouterr().out
  assert "2 steps, 96 tokens each" in said and re.search(r"  \S+ tokens/s  ", said)


def test_images_are_evaluated_over_the_whole_set(run, capsys):
  folder, config = run
  assert evaluate(config, str(folder), cache_dir=str(folder)) == 0
  accuracy = float(re.search(r"validation/accuracy=(\S+)", capsys.readouterr().out)[1])
  assert accuracy * 20 == pytest.approx(round(accuracy * 20), abs=1e-4)  # of 20 images
  assert 0.0 <= accuracy <= 1.0


def test_a_plan_names_what_the_data_are_counted_in():
  facts = plan_step(image_config(), None)
  assert facts["cheapest_kernels"] is None  # nothing is chosen
  facts["kernels"] = [Kernel(**each) for each in facts["kernels"]]
  kind = facts.pop("device_kind")
  plan = Plan(**facts, notes=(), compiled_for=kind, over_budget=(), peak_flops=1e12)
  said = report(plan, "toy.Images", mfu=0.5, tokens=None, price=0.0)
  assert "step        8 images in 1 forward pass" in said
  assert "2 steps, 16 images" in said and " images/s" in said and "token" not in said
  answer = as_json(plan, mfu=0.5, tokens=None, price=0.0)
  assert answer["images_per_step"] == 8 and answer["run"]["images"] == 16
  with pytest.raises(UserError, match="--tokens=100: these data are counted in images"):
    plan.run(mfu=0.5, tokens=100)


def test_rows_without_text_are_shown_array_by_array(capsys):
  print_rows(image_config(), num_rows=1, build_only=False, cache_dir="")
  header, row = capsys.readouterr().out.split("\n\n")
  assert header.splitlines() == [
    "counted in:     images, 1 a row",
    "rows per epoch: 20",
  ]
  title, images, label, weight = row.splitlines()
  assert title == "batch 0 row 0"
  assert re.fullmatch(r"  images  uint8 \[4, 4, 1\], \d+ to \d+", images)
  assert re.fullmatch(r"  labels  int32 [012]", label)
  assert weight == "  weights  float32 1.0"


def test_what_needs_a_vocabulary_is_refused_in_a_line(run, tmp_path):
  folder, config = run
  with pytest.raises(UserError, match=r"ToyImages\) has no vocabulary.*are images"):
    generate(config, str(folder), Request(prompts=["a"]), cache_dir=str(tmp_path))
  other = {"validation": fdl.Config(ToyText, split="validation")}
  with pytest.raises(UserError, match=r"eval_data\['validation'\].*different vocabularies"):
    train(image_config(eval_data=other), "toy", str(tmp_path / "run"))


class Unnamed(ToyText):
  """Tokens of which nobody says what they stand for."""

  def vocabulary(self):
    return None


def test_a_language_model_of_unnamed_tokens_has_no_bits_per_byte_and_is_not_exported(tmp_path):
  config = toy_config(
    train_data=fdl.Config(Unnamed),
    eval_data={"validation": fdl.Config(Unnamed, split="validation")},
    checkpoints=fdl.Config(Checkpoints),
    callbacks=[fdl.Config(EarlyStopping, metric="eval/validation/bits_per_byte")],
    num_steps=2,
  )
  config.model.vocab_size = 19
  with pytest.raises(UserError, match="'eval/validation/bits_per_byte', not there"):
    train(config, "toy.Unnamed", str(tmp_path / "watched"))
  config.callbacks = []
  workdir = str(tmp_path / "run")
  assert train(config, "toy.Unnamed", workdir) == 0
  with pytest.raises(UserError, match="from tokens without a vocabulary .*Unnamed"):
    export_folder(workdir, str(tmp_path / "theirs"))
  assert not (tmp_path / "theirs").exists()


def test_a_row_is_a_row_of_tokens_or_one_of_anything_else():
  assert (ToyText.units, ToyText().units_per_row(12)) == ("tokens", 12)
  assert (ToyImages.units, ToyImages().units_per_row(12)) == ("images", 1)
  assert ToyImages().document_start() is None and ToyImages().vocabulary() is None
