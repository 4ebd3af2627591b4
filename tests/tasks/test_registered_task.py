"""Any seqio Task with `targets` can be trained on, and its store opened without seqio."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from layers.errors import UserError
from tasks.registered_task import RegisteredTask

ROOT = Path(__file__).parents[2]

LAB = """
import functools
import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary(extra_ids=2)

def named(dataset):
  return dataset.map(lambda line: {"targets": line})

def features(**others):
  return {"targets": seqio.Feature(VOCABULARY, add_eos=True, dtype=tf.int32), **others}

seqio.TaskRegistry.add(
  "lab_lines",
  source=seqio.TextLineDataSource({"train": [FILES]}),
  preprocessors=[named, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
  output_features=features(), metric_fns=[])
seqio.TaskRegistry.add(
  "lab_labels",
  source=seqio.TextLineDataSource({"train": [FILES]}),
  preprocessors=[], output_features={"label": seqio.Feature(VOCABULARY)}, metric_fns=[])
seqio.TaskRegistry.add(
  "lab_tfds",
  source=seqio.TfdsDataSource(tfds_name="wiki40b/en:1.3.0", tfds_data_dir="no_folder"),
  preprocessors=[], output_features=features(), metric_fns=[])
seqio.MixtureRegistry.add("lab_mixture", [("lab_lines", 1)])
"""

USE = """
import sys
sys.path.insert(0, {root!r})
from input_pipelines.allowed_packages import allow
from tasks.registered_task import RegisteredTask
from layers.errors import UserError
allow("lab")
data = RegisteredTask(task="lab_lines", module="lab")
vocabulary = data.vocabulary()
batches = data.open(sequence_length=4, batch_size=3, cache_dir="cache", seed=None)
text = "".join(vocabulary.decode(batch["decoder_target_tokens"].ravel()) for batch in batches)
print(vocabulary.vocab_size, vocabulary.bos_id, vocabulary.eos_id, text, "seqio" in sys.modules)
"""

ERRORS = """
for task, module, split in {wrong!r}:
  try:
    RegisteredTask(task=task, module=module, split=split).store("cache")
  except UserError as error:
    print(error)
"""


@pytest.fixture
def lab(tmp_path):
  """A folder with the module `lab` and its three files; runs programs there."""
  lines = {"a.txt": "one line\nand two\n", "b.txt": "three\n", "c.txt": "four, at last\n"}
  for name, text in lines.items():
    (tmp_path / name).write_text(text)
  files = ", ".join(repr(str(tmp_path / name)) for name in lines)
  (tmp_path / "lab.py").write_text(textwrap.dedent(LAB).replace("FILES", files))

  def run(program):
    environment = {"PYTHONPATH": str(tmp_path), "STRATA_CACHE": str(tmp_path), "PATH": ""}
    result = subprocess.run(
      [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True,
      text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout

  return run


@pytest.mark.slow
def test_every_line_is_stored_in_the_order_of_the_files_and_opened_without_seqio(lab):
  # The first byte of each line is the input before the first target: these tasks add no BOS.
  text = "ne linend twohreeour, at last"
  program = USE.format(root=str(ROOT))
  assert lab(program) == f"261 None 1 {text} True\n"
  assert lab(program) == f"261 None 1 {text} False\n"
  wrong = [
    ("lab_line", "lab", "train"),
    ("lab_labels", "lab", "train"),
    ("lab_mixture", "lab", "train"),
    ("lab_lines", "lab", "test"),
    ("lab_lines", "nowhere.lab", "train"),
    ("lab_tfds", "lab", "train"),
  ]
  lines = lab(program + ERRORS.format(wrong=wrong)).splitlines()[1:]
  for line, words in zip(
    lines,
    (
      "registers no seqio task 'lab_line'; nearest: lab_lines",
      "no feature 'targets' of token ids",
      "lab_mixture is a seqio mixture",
      "has no split 'test'; it has 'train'",
      "no module 'nowhere.lab'",
      "lab_tfds reads wiki40b/en:1.3.0 of TensorFlow Datasets from no_folder, a folder that is",
    ),
    strict=True,
  ):
    assert words in line


def test_a_task_without_a_name_is_told_what_to_set():
  with pytest.raises(UserError, match="--set=train_data.task=NAME"):
    RegisteredTask(task=None, module="lab").vocabulary()


def test_the_store_follows_the_modules_source_the_task_and_the_revision(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  module = tmp_path / "lab_of_this_test.py"
  module.write_text("VERSION = 1\n")
  data = {"task": "lines", "module": "lab_of_this_test"}
  identities = [
    RegisteredTask(**data).identity(),
    RegisteredTask(**data, revision="2").identity(),
  ]
  identities.append(RegisteredTask(**{**data, "task": "words"}).identity())
  module.write_text("VERSION = 2\n")
  identities.append(RegisteredTask(**data).identity())
  assert len({str(identity) for identity in identities}) == 4
  np.testing.assert_equal(identities[-1], RegisteredTask(**data).identity())


GIN_LAB = """
import gin
import seqio
import tensorflow as tf

@gin.configurable
def keep_first(dataset, count=gin.REQUIRED, letter="x"):
  cut = lambda line: {"targets": tf.strings.join([letter, tf.strings.substr(line, 0, count)])}
  return dataset.map(cut)

seqio.TaskRegistry.add(
  "lab_gin",
  source=seqio.TextLineDataSource({"train": [FILES]}),
  preprocessors=[keep_first, seqio.preprocessors.tokenize],
  output_features={
    "targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False, dtype=tf.int32)},
  metric_fns=[])
"""

GIN_USE = """
import sys
sys.stderr = sys.stdout
sys.path.insert(0, {root!r})
from experiments.command_line import main
DATA = "--set=train_data=@RegisteredTask(task='lab_gin', module='gin_lab', pack=False)"
COMMON = ["--load=gin_lab", "--exp=gpt2.Nano", DATA, "--set=eval_data={{}}",
          "--set=sequence_length=16", "--set=batch_size=1", "--cache_dir=cache"]
TINY = ["--set=model.num_layers=1", "--set=model.model_dim=4", "--set=num_steps=1",
        "--set=model.block.attention.num_heads=1", "--set=writers=[]", "--workdir=run"]
for flags in {flags!r}:
  print(main(["runner", "data", "--num_rows=4", *COMMON, *flags]), flush=True)
print(main(["runner", "train", *COMMON, *TINY, *{flags!r}[0]]), flush=True)
again = ["--load=gin_lab", "--config=run/config.json", "--cache_dir=cache", "--num_rows=4"]
print(main(["runner", "data", *again]))
"""


@pytest.mark.slow
def test_gin_changes_the_rows_and_what_was_in_force_is_saved_with_the_run(lab, tmp_path):
  files = ", ".join(repr(str(tmp_path / f"{name}.txt")) for name in "abc")
  (tmp_path / "gin_lab.py").write_text(GIN_LAB.replace("FILES", files))
  (tmp_path / "three.gin").write_text("include 'letter.gin'\nkeep_first.count = 3\n")
  (tmp_path / "letter.gin").write_text("LETTER = 'y'\nkeep_first.letter = %LETTER\n")
  flags = [
    ["--gin_file=three.gin"],
    ["--gin_bindings=keep_first.count=2", "--gin_bindings=keep_first.letter='!'"],
    ["--gin_bindings=keep_first.count=9", "--gin_file=three.gin"],
    [],
    ["--gin_bindings=keep_frst.count=2"],
    ["--gin_bindings=keep_first.cuont=2"],
  ]
  out = lab(GIN_USE.format(root=str(ROOT), flags=flags))
  ended = out.split("\n0\n")
  rows = [
    {line.split("'")[1] for line in part.splitlines() if line.startswith("  segment")}
    for part in ended
  ]
  three = {"yon", "yan", "yth", "yfo"}  # the last letter of a line is a target alone
  assert rows[0] == three and rows[1] == {"!o", "!a", "!t", "!f"}
  assert rows[2] == {"yone lin", "yand tw", "ythre", "yfour, at"}
  for error in (
    "gin: Required bindings for `keep_first` not provided in config: ['count']; see --gin_file",
    "gin: No configurable matching 'keep_frst'; see --gin_file",
    "gin: Configurable 'keep_first' doesn't have a parameter named 'cuont'; see --gin_file",
  ):
    assert f"runner: error: {error} and --gin_bindings\n2\n" in ended[3]
  assert rows[4] == three  # from config.json alone
  saved = (tmp_path / "run" / "operative_config.gin").read_text()
  assert saved.startswith("# train_data\n")
  assert "keep_first.count = 3\n" in saved and "keep_first.letter = %LETTER\n" in saved
