"""The corpus script writes lines that `@Jsonl` reads, each by the recipe that it names."""

import subprocess
import sys

from tasks.jsonl import Jsonl
from tests.shown_commands import ROOT

SOURCE = '''def double(x):
  """Twice x."""
  return 2 * x
'''


def test_documents_and_questions_become_lines_with_their_recipes(tmp_path):
  (tmp_path / "sources").mkdir()
  (tmp_path / "sources" / "a.py").write_text(SOURCE)
  (tmp_path / "sources" / "copy_of_a.py").write_text(SOURCE)
  (tmp_path / "sources" / "empty.py").write_text("\n")
  script = [sys.executable, str(ROOT / "benchmarks" / "jsonl_corpus.py"), str(tmp_path / "out")]
  done = subprocess.run(
    [*script, f"--sources={tmp_path / 'sources'}"], capture_output=True, text=True
  )
  assert "1 documents, 1 questions with answers" in done.stdout
  assert done.returncode == 1 and "all there is" in done.stderr  # fewer than 250 MB
  data = Jsonl(
    files=f"{tmp_path / 'out'}/python-[01].jsonl.gz",
    fields_from_example="fields",
    validation_fraction=0.0,
  )
  store = data.store(str(tmp_path / "cache"))
  decode = data.vocabulary().decode
  document, question = (
    decode(store.tokens[start + 1 : end - 1])
    for start, end in zip(store.offsets, store.offsets[1:], strict=False)
  )
  assert document == SOURCE
  assert question == "def double(x):\n  return 2 * x\nTwice x."
  learned = store.weights[store.offsets[1] :]
  assert learned.sum() == len("Twice x.") + 1  # and the end of the text
