"""The benchmark for accelerators runs on a CPU too, and would show a core that is wrong."""

import dataclasses
import importlib
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import on_device
from benchmarks.on_device import Shape
from experiments.lwm import TextLlamaDebug
from layers.attention_cores.auto import auto_attention
from layers.attention_cores.blockwise import BlockwiseAttention
from layers.attention_cores.dense import dense_attention
from layers.tokens import Tokens
from tests.shown_commands import ROOT
from tests.shown_tables import run_benchmark, tables

PACKED = Shape(64, "packed", num_heads=2, num_kv_heads=1, head_dim=8)
TINY = ("--lengths=128", "--heads=2", "--head_dim=8", "--repeats=1", "--rows", "whole")


@pytest.mark.slow
def test_parity_and_times_are_printed_and_a_cpu_is_called_one():
  printed = run_benchmark(
    "flash_attention.py", *TINY, "--core=BlockwiseAttention", "--parts", "parity", "time"
  )
  assert "there is no accelerator" in printed and "times of a CPU" in printed
  parity, times = tables(printed)
  assert list(parity) == [f"whole, {name}" for name in on_device.GRADIENTS]
  for row in parity.values():
    assert row["core"] == "BlockwiseAttention"
    assert isinstance(row["relative"], float) and row["relative"] < 0.02
    assert isinstance(row["yardstick"], float) and row["yardstick"] > 0
  assert list(times) == ["128 whole, forward", "128 whole, forward and backward"]
  for row in times.values():
    assert isinstance(row["ms"], float) and row["ms"] > 0
    assert isinstance(row["dense ms"], float) and row["dense ms"] > 0
    assert row["peak MB"] == row["dense peak MB"] == "n/a"


def test_a_core_that_does_not_run_here_is_an_error_of_one_line():
  script = str(ROOT / "benchmarks" / "flash_attention.py")
  command = [sys.executable, script, *TINY, "--core=CudnnAttention", "--measure=time"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2 and not done.stdout
  *_, said = done.stderr.splitlines()
  assert said.startswith("error: CudnnAttention runs on NVIDIA's GPUs")


def test_parity_shows_a_core_that_lets_documents_see_each_other():
  def without_segments(request):
    whole = Tokens.unpacked(*request.query.shape[:2])
    return dense_attention(dataclasses.replace(request, query_tokens=whole, key_tokens=whole))

  good, bad = (
    on_device.parity(attend, PACKED) for attend in (BlockwiseAttention(), without_segments)
  )
  for name in on_device.GRADIENTS:
    assert good[name]["apart"] < 5 * good[name]["yardstick"]
    assert bad[name]["apart"] > 20 * bad[name]["yardstick"]


def test_packed_rows_are_eight_documents_and_padding():
  found = on_device.tokens("packed", 2, 64)
  for positions, segments in zip(found.positions, found.segments, strict=True):
    assert set(np.asarray(segments).tolist()) == set(range(9)) and segments[-1] == 0
    first = np.flatnonzero(np.diff(np.asarray(segments), prepend=-1))
    assert not np.asarray(positions)[first].any()
    assert len(first) == 9


def test_what_does_not_fit_the_device_is_left_out(monkeypatch):
  arguments = (jnp.ones((64, 64)),)
  monkeypatch.setattr(on_device, "_limit", lambda: 64 * 64 * 4)
  assert set(on_device.timed(jnp.square, arguments, 1)) == {"planned"}
  monkeypatch.setattr(on_device, "_limit", lambda: 2 * 64 * 64 * 4 + 64)
  fits = on_device.timed(jnp.square, arguments, 1)
  assert fits["seconds"] > 0 and fits["planned"] == 2 * 64 * 64 * 4


def test_an_error_other_than_full_memory_is_not_taken_for_it():
  with pytest.raises(RuntimeError, match="INTERNAL"):
    on_device._check_full(RuntimeError("INTERNAL: a bug"))
  on_device._check_full(RuntimeError("RESOURCE_EXHAUSTED: out of memory"))


def test_auto_means_the_core_that_it_takes_here():
  assert on_device.core(auto_attention, PACKED) is dense_attention
  long = PACKED._replace(length=4096)
  assert on_device.core(auto_attention, long) == BlockwiseAttention()
  assert on_device.core(BlockwiseAttention, PACKED) == BlockwiseAttention()


@pytest.mark.slow
def test_a_step_counts_the_flops_of_the_model():
  config = TextLlamaDebug().config()
  config.batch_size, config.sequence_length = 2, 32
  config.model.num_layers, config.model.model_dim, config.model.vocab_size = 1, 16, 300
  config.model.block.feed_forward.hidden_dim = 24
  facts = on_device.training_step(config, "packed", repeats=1)
  assert facts["seconds"] > 0 and facts["peak"] is None and facts["tokens"] == 64
  weights = 4 * 16 * 16 + 3 * 16 * 24 + 16 * 300  # of the products, the embedding has none
  assert facts["parameters"] == weights + 16 * 300 + 3 * 16
  scores = 2 * 2 * 32 * 32 * 16 * 2  # queries by keys, and weights by values
  assert math.isclose(facts["flops"], 3 * (2 * 64 * weights + scores), rel_tol=1e-9)


def test_utilisation_is_of_the_peak_of_one_device(monkeypatch, capsys):
  monkeypatch.syspath_prepend(ROOT / "benchmarks")
  script = importlib.import_module("flash_attention")
  facts = {"parameters": 10, "tokens": 1000, "flops": 2e12, "seconds": 0.5, "peak": 3e9}
  answers = iter([facts, {key: facts[key] for key in ("parameters", "tokens", "flops")}])
  monkeypatch.setattr(script, "in_own_process", lambda *_, **__: next(answers))
  monkeypatch.setattr(sys, "argv", ["flash_attention.py"])
  script.print_step(script.parse(), {"platform": "gpu", "peak_flops": 10e12})
  (table,) = tables(capsys.readouterr().out)
  assert table["whole"]["MFU"] == "40.0%"
  assert table["whole"]["tokens/s"] == 2000 and table["whole"]["peak MB"] == 3000
  assert set(table["packed"].values()) == {"left out"}
