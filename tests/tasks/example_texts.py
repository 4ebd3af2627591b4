"""Files of examples that the tests of JSON lines write, and what is to become of them."""

import gzip
import json

import numpy as np
import pytest

from input_pipelines.vocabularies import ByteVocabulary

BYTES = ByteVocabulary()
ALL = {"validation_fraction": 0.0}
GOOD = '{"text": "good"}\n'


def lines_of(examples):
  return "".join(json.dumps(example) + "\n" for example in examples)


def texts(count, start=0):
  return [{"text": f"text number {i} " + "é🙂x" * (i % 7)} for i in range(start, start + count)]


def framed(*parts):
  return [BYTES.bos_id, *(i for text in parts for i in BYTES.encode(text).tolist()), 1]


def documents(store):
  return [part.tolist() for part in np.split(store.tokens, store.offsets[1:-1])]


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return str(path)


def write_gz(path, content):
  path.write_bytes(gzip.compress(content.encode()[:40]) + gzip.compress(content.encode()[40:]))
  return str(path)


def write_parquet(path, content):
  pyarrow = pytest.importorskip("pyarrow")
  parquet = pytest.importorskip("pyarrow.parquet")
  rows = [json.loads(line) for line in content.splitlines()]
  parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
  return str(path)
