"""A mixture's tokens are counted by source, to the token, also after a restart."""

import json

import fiddle as fdl
import pytest

from input_pipelines.batches import SEGMENTS
from runners.callbacks import Run
from runners.interchange.init_from import InitFrom
from runners.metrics.json_lines import JsonLines
from runners.source_tokens import SourceTokens
from runners.training import train
from tasks.jsonl import Jsonl
from tasks.mixture import Mixture
from tests.runners.toy_run import toy_config

B, T = 8, 12


def config_of(folder, num_steps, rates=None, **fields):
  sources = {
    name: fdl.Config(Jsonl, files=str(folder / f"{name}.jsonl"), validation_fraction=0.0)
    for name in ("web", "code")
  }
  return toy_config(
    train_data=fdl.Config(Mixture, sources=sources, rates=rates or {"web": 3, "code": 1}),
    num_steps=num_steps,
    log_every=2,
    writers=[fdl.Config(JsonLines)],
    **fields,
  )


def run(folder, workdir, num_steps, *accept, **fields):
  config = config_of(folder, num_steps, **fields)
  assert not train(
    config, "toy", str(workdir), accept_changes=accept, cache_dir=str(folder / "cache")
  )
  return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


@pytest.fixture
def folder(tmp_path):
  for name, length in (("web", 40), ("code", 7)):
    lines = (json.dumps({"text": name * (1 + i % length)}) for i in range(1, 40))
    (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
  return tmp_path


def counted(folder, num_steps):
  """By hand, from the rows of each batch."""
  batches = fdl.build(config_of(folder, num_steps).train_data).open(
    sequence_length=T, batch_size=B, seed=0, cache_dir=str(folder / "cache")
  )
  counts = {"web": 0, "code": 0}
  starts = batches._joined.starts
  for n in range(num_steps):
    real = (batches[n][SEGMENTS] > 0).sum(axis=1)
    for index, tokens in zip(batches.row_indices(n), real, strict=True):
      counts["code" if index < starts[1] else "web"] += int(tokens)
  return counts


@pytest.mark.slow
def test_a_batch_size_that_changes_keeps_each_row_and_the_counts_of_a_mixture(folder):
  accept = ("num_steps", "batch_size")
  unbroken = run(folder, folder / "unbroken", 12, batch_size=4)
  run(folder, folder / "changed", 8, batch_size=4)
  changed = run(folder, folder / "changed", 10, *accept, batch_size=8)
  assert tokens_of(changed[-1]) == tokens_of(unbroken[-1])  # 8 x 4 + 2 x 8 rows, 12 x 4 rows


def tokens_of(row):
  return {name: row[f"data/{name}/tokens"] for name in ("web", "code")}


def test_counts_and_losses_after_restarts_are_those_of_the_unbroken_run(folder):
  unbroken = run(folder, folder / "unbroken", 8)
  for row in unbroken:
    assert tokens_of(row) == counted(folder, row["step"])
  assert all(type(count) is int for count in tokens_of(unbroken[-1]).values())
  run(folder, folder / "broken", 4, "num_steps")
  broken = run(folder, folder / "broken", 8, "num_steps")
  rows = {row["step"]: row for row in broken}
  for row in unbroken:
    again = rows[row["step"]]
    assert tokens_of(again) == tokens_of(row) and again["train/loss"] == row["train/loss"]


def test_a_run_begun_from_everything_counts_on_from_what_was_read(folder):
  before = tokens_of(run(folder, folder / "before", 4)[-1])
  everything = fdl.Config(InitFrom, path=str(folder / "before"), everything=True)
  rates = {"web": 1, "code": 9}
  (row,) = run(folder, folder / "after", 6, rates=rates, init_from=everything)
  alone = run(folder, folder / "alone", 6, rates=rates)
  (at_4,), (at_6,) = ([r for r in alone if r["step"] == step] for step in (4, 6))
  assert tokens_of(at_4) != before  # other rates read something else
  for name, tokens in tokens_of(row).items():
    assert tokens == before[name] + tokens_of(at_6)[name] - tokens_of(at_4)[name]


class Halves:
  """Batches of 10 tokens of each source."""

  def __init__(self, *sources):
    self.sources = sources

  def tokens_by_source(self, first, end):
    return dict.fromkeys(self.sources, 10 * (end - first))


def test_what_was_read_stays_counted_when_the_sources_change():
  before = SourceTokens(Halves("a", "b"))
  before.on_step(Run("", 9, step=1), {"train/loss": 1.0})
  before.on_step(Run("", 9, step=2), {})
  assert before.state() == {"step": 2, "tokens": {"a": 20, "b": 20}}
  after, scalars = SourceTokens(Halves("b", "c")), {"train/loss": 1.0}
  after.restore(before.state())
  after.on_step(Run("", 9, step=3), scalars)
  assert scalars == {
    "train/loss": 1.0,
    "data/a/tokens": 20,
    "data/b/tokens": 30,
    "data/c/tokens": 10,
  }


def test_a_checkpoint_without_counts_is_made_up_for():
  counting, scalars = SourceTokens(Halves("a")), {"train/loss": 1.0}
  counting.on_step(Run("", 9, step=7), scalars)
  assert scalars["data/a/tokens"] == 70


def test_a_step_that_is_not_logged_gets_no_counts():
  scalars = {"eval/validation/loss": 1.0}
  SourceTokens(Halves("a")).on_step(Run("", 9, step=7), scalars)
  assert scalars == {"eval/validation/loss": 1.0}
