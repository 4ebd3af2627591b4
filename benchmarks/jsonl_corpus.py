"""A corpus of JSON lines from the Python sources of this machine: something real to train on.

python benchmarks/jsonl_corpus.py /tmp/corpus --megabytes=250

Lines of two kinds, mixed as they come: whole files as {"text": ...}, from one line to many
thousands, and functions that have a docstring as {"question": its source without the docstring,
"answer": the docstring}. Each line names the recipe of its fields, so that one command reads
both and learns of the questions nothing:

runner --exp=lwm.TextLlamaDebug --set=train_data.files='/tmp/corpus/*.jsonl.gz' \\
  --set=train_data.fields_from_example=fields
"""

import argparse
import ast
import collections
import gzip
import json
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

SHARDS = 4
DOCUMENT = "text"
QUESTION = "[question],answer"


def examples(roots: list[Path]) -> Iterator[dict[str, str]]:
  """One line after the other, no file twice."""
  seen = set()
  for root in roots:
    for path in sorted(root.rglob("*.py")):
      try:
        text = path.read_bytes().decode()
      except (OSError, UnicodeDecodeError):
        continue  # sources of other encodings are left out
      if not text.strip() or hash(text) in seen:
        continue
      seen.add(hash(text))
      yield {"text": text, "fields": DOCUMENT}
      for question, answer in functions(text):
        yield {"question": question, "answer": answer, "fields": QUESTION}


def functions(text: str) -> Iterator[tuple[str, str]]:
  """Source without docstring, and docstring, of each documented function of a file."""
  try:
    with warnings.catch_warnings(action="ignore"):
      tree = ast.parse(text)
  except (SyntaxError, ValueError):
    return  # sources of another Python
  lines = text.splitlines()
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
      end_of_docstring = node.body[0].end_lineno or node.lineno
      kept = lines[node.lineno - 1 : node.body[0].lineno - 1]
      kept += lines[end_of_docstring : node.end_lineno]
      yield textwrap.dedent("\n".join(kept)) + "\n", docstring


def write(folder: Path, roots: list[Path], num_bytes: int) -> collections.Counter:
  """Fills SHARDS files until `num_bytes` of JSON are written; returns what was."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / f"python-{i}.jsonl.gz" for i in range(SHARDS)]
  files = [gzip.open(path, "wt", encoding="utf-8", compresslevel=3) for path in paths]
  counts = collections.Counter()
  for number, example in enumerate(examples(roots)):
    line = json.dumps(example, ensure_ascii=False) + "\n"
    files[number % SHARDS].write(line)
    counts[example["fields"]] += 1
    counts["bytes"] += len(line.encode())
    if counts["bytes"] >= num_bytes:
      break
  for file in files:
    file.close()
  return counts


def main() -> None:
  parser = argparse.ArgumentParser(description="Writes JSON lines of Python sources.")
  parser.add_argument("folder", type=Path)
  parser.add_argument("--megabytes", type=int, default=250, help="of JSON, before compression")
  parser.add_argument("--sources", type=Path, action="append", help="folders")
  arguments = parser.parse_args()
  python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
  counts = write(arguments.folder, arguments.sources or python, arguments.megabytes * 10**6)
  print(
    f"{counts['bytes'] / 1e6:.1f} MB in {SHARDS} files: {counts[DOCUMENT]:,} documents, "
    f"{counts[QUESTION]:,} questions with answers"
  )
  if counts["bytes"] < arguments.megabytes * 10**6:
    sys.exit("that is all there is; name more folders with --sources")


if __name__ == "__main__":
  main()
