"""A run that stops and goes on in processes with other devices, and the batches it read."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import fiddle as fdl
import numpy as np

from input_pipelines.loader import RowBatches
from layers.notices import heard
from runners import optimizers
from runners.devices.meshes import MeshShape
from runners.metrics.json_lines import JsonLines
from runners.training import train
from tests.runners.toy_run import ToyText, toy_config

RECORD = "STRATA_TEST_BATCHES"  # the file to which batches are recorded


class RecordedBatches:
  """Batches that write the number and the checksum of each that is read."""

  def __init__(self, batches: RowBatches):
    self._batches = batches

  def __getattr__(self, name: str) -> Any:
    return getattr(self._batches, name)

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    batch = self._batches[n]
    content = hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch)))
    with open(os.environ[RECORD], "a") as file:
      file.write(json.dumps([n, content.hexdigest()]) + "\n")
    return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedText(ToyText):
  """ToyText whose batches are recorded."""

  def open(self, **how: Any) -> RecordedBatches:
    return RecordedBatches(super().open(**how))


def go_on(workdir: str, num_steps: int, mesh: dict[str, int], **fields: Any) -> list[str]:
  """Takes the run in `workdir` to `num_steps` on this process's devices: what was said."""
  config = toy_config(
    dropout_rate=0.1,
    batch_size=16,
    num_steps=num_steps,
    log_every=1,
    train_data=fdl.Config(RecordedText),
    optimizer=fdl.Config(optimizers.adamw, learning_rate=1e-2),
    mesh=fdl.Config(MeshShape, **mesh),
    writers=[fdl.Config(JsonLines)],
    **fields,
  )
  os.environ[RECORD] = f"{workdir}.batches"
  with heard() as said:
    code = train(config, "toy.Run", workdir, accept_changes=["num_steps"])
  assert code == 0
  return said


def losses(workdir: Path) -> dict[int, float]:
  """Step -> loss, as logged; a step that was logged twice fails."""
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
  assert len({row["step"] for row in rows}) == len(rows)
  return {row["step"]: row["train/loss"] for row in rows}


def batches(workdir: Path) -> dict[int, set[str]]:
  """Number of a batch -> the different contents that were read under it."""
  met: dict[int, set[str]] = {}
  for line in open(f"{workdir}.batches"):
    n, content = json.loads(line)
    met.setdefault(n, set()).add(content)
  return met


def assert_same(moved: Path, unbroken: Path, num_steps: int) -> None:
  """Both logged every step once, with the same losses, and read the same batches."""
  want, got = losses(unbroken), losses(moved)
  assert list(got) == list(want) == list(range(1, num_steps + 1))
  np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-5)

  read, read_moved = batches(unbroken), batches(moved)
  for n in range(num_steps):
    assert len(read[n]) == 1 and read_moved[n] == read[n], n
