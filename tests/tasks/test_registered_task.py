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
seqio.MixtureRegistry.add("lab_mixture", [("lab_lines", 1)])
"""

USE = """
import sys
sys.path.insert(0, {root!r})
from tasks.registered_task import RegisteredTask
from layers.errors import UserError
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
  ]
  lines = lab(program + ERRORS.format(wrong=wrong)).splitlines()[1:]
  for line, words in zip(
    lines,
    (
      "registers no seqio task 'lab_line'; nearest: lab_lines",
      "no feature 'targets' of token ids",
      "lab_mixture is a seqio mixture",
      "has no split 'test'; it has 'train'",
      "no module nowhere.lab",
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
