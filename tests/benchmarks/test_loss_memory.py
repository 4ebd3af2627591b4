"""The benchmark of the loss's memory: a chunk of logits takes less than all of them."""

import pytest

from tests.shown_tables import run_benchmark, tables


@pytest.mark.slow
def test_the_chunked_loss_takes_less_than_all_logits():
  shape = ("--tokens", "2048", "--vocab_size=4000", "--model_dim=16", "--chunk=128")
  (table,) = tables(run_benchmark("loss_memory.py", *shape))
  (row,) = table.values()
  logits_mb = 2048 * 4000 * 4 / 1e6
  assert row["plain planned"] > logits_mb > row["chunked planned"]
  assert row["plain MB"] > logits_mb > row["chunked MB"] > 0
