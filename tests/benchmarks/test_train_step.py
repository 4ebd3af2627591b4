"""The benchmark of the training step runs, and compares programs that do the same."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from tests.shown_commands import ROOT
from tests.shown_tables import run_benchmark, tables

WITH_TORCH = importlib.util.find_spec("torch") is not None
PYTORCH = {"PyTorch float32", "PyTorch bfloat16 autocast"}


@pytest.mark.slow
def test_every_program_has_a_row_and_all_have_the_same_loss_after_the_first_steps():
  num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  found = tables(run_benchmark("train_step.py", "--quick"))
  assert len(found) == len({1, num_cores})  # on one core, and on all
  for table in found:
    assert set(table) == {"Strata float32", "Strata bfloat16"} | (
      PYTORCH if WITH_TORCH else set()
    )
    for row in table.values():
      assert isinstance(row["ms a step"], float) and row["ms a step"] > 0
      assert isinstance(row["peak MB"], float) and row["peak MB"] > 0
    losses = {name: row["loss"] for name, row in table.items()}
    reference = losses["Strata float32"]
    assert all(math.isclose(loss, reference, rel_tol=1e-3) for loss in losses.values())


@pytest.mark.slow
@pytest.mark.skipif(not WITH_TORCH, reason="PyTorch, the other side of it, is not installed")
def test_pytorch_and_strata_train_the_same_model_step_for_step(tmp_path):
  exported = tmp_path / "exported.npz"
  strata = ["strata_gpt.py", "--size=tiny", f"--folder={tmp_path}"]
  _python(*strata, f"--export={exported}")
  ours = _losses(*strata)
  theirs = _losses("torch_gpt.py", f"--export={exported}", "--num_cores=1")
  assert len(ours) == 20
  assert ours == pytest.approx(theirs, rel=1e-5)


def _losses(*command: str) -> list[float]:
  """Of the first twenty steps of a worker."""
  *_, answer = _python(*command, told="20\n").splitlines()
  return json.loads(answer)["losses"]


def _python(script: str, *arguments: str, told: str = "") -> str:
  command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
  done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return done.stdout
