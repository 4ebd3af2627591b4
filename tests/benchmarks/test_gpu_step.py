"""The benchmark of a GPU step runs on any device; both sides have as many parameters."""

import pytest

from runners.blueprint import draw, lay_ground
from tests.shown_commands import ROOT
from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_every_program_has_a_row_with_positive_figures():
  pytest.importorskip("torch")
  (found,) = tables(run_benchmark("gpu_step.py", "--quick", "--models", "gpt2"))
  assert list(found) == ["PyTorch", "Strata, as registered"]
  for row in found.values():
    columns = ("ms a step", "tokens/s", "first s", "x PyTorch")
    assert all(isinstance(row[name], float) and row[name] > 0 for name in columns)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_train_as_many_parameters(family, monkeypatch):
  torch = pytest.importorskip("torch")
  monkeypatch.syspath_prepend(ROOT / "benchmarks")
  import gpu_step  # pyright: ignore[reportMissingImports]
  import torch_step  # pyright: ignore[reportMissingImports]

  config = gpu_step._config(family, num_rows=1, length=1024, quick=False)
  ours = draw(ground := lay_ground(config), ground.mesh.describe(1)).initializer.num_params()
  sizes = gpu_step._sizes(config)
  with torch.device("meta"):
    model = torch_step.model(family, sizes, length=1024)
  tables_ = 1 if family == "gpt2" else 2
  padding = model.embedding.num_embeddings - sizes["vocab_size"]
  theirs = sum(parameter.numel() for parameter in model.parameters())
  assert theirs - padding * tables_ * sizes["model_dim"] == ours
