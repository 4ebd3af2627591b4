"""The first rows of the training data as the model will see them, text decoded.

runner data --exp=gpt2.Nano
"""

from collections.abc import Sequence
from typing import Any

import fiddle as fdl
import numpy as np

from input_pipelines.batches import (
  INPUTS,
  POSITIONS,
  SEGMENTS,
  TEXT_KEYS,
  WEIGHTS,
  Batches,
  Data,
)
from input_pipelines.vocabularies import Vocabulary
from runners.configs.ranges import check_ranges

_SHOWN_CHARACTERS = 60


def print_rows(
  config: fdl.Config[Any], num_rows: int, build_only: bool, cache_dir: str
) -> None:
  """Prints the first `num_rows` rows that a run of `config` trains on; builds no model.

  `build_only` builds the token store and prints only its facts.
  """
  check_ranges(config)
  data: Data = fdl.build(config.train_data)
  vocabulary = data.vocabulary()
  batches = data.open(
    sequence_length=config.sequence_length,
    batch_size=config.batch_size,
    cache_dir=cache_dir,
    seed=config.seed,
  )
  _print_header(data, batches, config.sequence_length)
  if build_only:
    return
  if batches.num_batches is not None:
    num_rows = min(num_rows, batches.num_batches * config.batch_size)
  for number in range(num_rows):
    n, row = divmod(number, config.batch_size)
    batch = batches[n]
    _print_row(
      f"batch {n} row {row}", {key: value[row] for key, value in batch.items()}, vocabulary
    )


def _print_header(data: Data, batches: Batches, sequence_length: int) -> None:
  facts = {**getattr(batches, "description", {})}
  if (vocabulary := data.vocabulary()) is not None:
    facts["vocabulary"] = f"{type(vocabulary).__name__}, {vocabulary.vocab_size} ids"
  if data.units != "tokens":
    facts["counted in"] = f"{data.units}, {data.units_per_row(sequence_length):g} a row"
  facts["rows per epoch"] = f"{batches.rows_per_epoch:,}"
  for name, value in facts.items():
    print(f"{name + ':':<16}{value}")


def _print_row(title: str, row: dict[str, np.ndarray], vocabulary: Vocabulary | None) -> None:
  """Its text, if it has any, and a line for every other array."""
  print(f"\n{title}")
  shown: Sequence[str] = ()
  if vocabulary is not None and SEGMENTS in row:
    _print_segments(row, vocabulary)
    shown = TEXT_KEYS
  for key, value in row.items():
    if key not in shown:
      print(f"  {key}  {_array(np.asarray(value))}")


def _array(value: np.ndarray) -> str:
  """A number as it is, of more their shape and range: `uint8 [8, 8], 0 to 16`."""
  if value.size == 1:
    return f"{value.dtype} {value.item()}"
  shape = f"{value.dtype} {list(value.shape)}"
  return f"{shape}, {value.min()} to {value.max()}" if value.size else shape


def _print_segments(row: dict[str, np.ndarray], vocabulary: Vocabulary) -> None:
  """One line a segment: its number, positions, sum of loss weights, and input text."""
  for segment in _in_order(row[SEGMENTS]):
    members = row[SEGMENTS] == segment
    positions, weight = row[POSITIONS][members], row[WEIGHTS][members].sum()
    if segment == 0:
      print(f"  padding    {members.sum()} tokens  weight {weight:g}")
      continue
    text = _shortened(vocabulary.decode(row[INPUTS][members]))
    print(
      f"  segment {segment:<3}positions {positions.min()}-{positions.max()}  "
      f"weight {weight:g}  {text}"
    )


def _in_order(segments: np.ndarray) -> list[int]:
  """The segment ids in a row, in order, with padding (0) last."""
  return sorted(np.unique(segments).tolist(), key=lambda segment: (segment == 0, segment))


def _shortened(text: str) -> str:
  """The text on one line, without its middle if it is long."""
  if len(text) <= _SHOWN_CHARACTERS:
    return repr(text)
  half = _SHOWN_CHARACTERS // 2
  return f"{text[:half]!r} ... {text[-half:]!r}"
