"""Next-token loss is a weighted mean over tokens, and any split of them sums to the same."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipelines.packing import PackedRows, PaddedRows
from tasks.language_modeling import NextToken, RowMeanNextToken
from tasks.objective import Answer, with_rows

B, T, V = 4, 5, 7


@pytest.fixture
def batch():
  """Ragged weights, and a last row of padding alone."""
  generator = np.random.default_rng(0)
  weights = generator.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32)
  weights[-1] = 0.0
  ids = lambda: jnp.asarray(generator.integers(0, V, (B, T)), jnp.int32)
  return with_rows(
    {
      "decoder_input_tokens": ids(),
      "decoder_target_tokens": ids(),
      "decoder_positions": jnp.broadcast_to(jnp.arange(T), (B, T)),
      "decoder_segment_ids": jnp.ones((B, T), jnp.int32),
      "decoder_loss_weights": jnp.asarray(weights),
    }
  )


def _apply(ids, tokens):
  """Logits that depend on the input, on where it stands and on nothing outside its row."""
  place = ids[..., None] + 0.3 * tokens.positions[..., None] + 0.1 * tokens.rows[:, None, None]
  return jnp.cos(place * (1.0 + jnp.arange(V)))


def _forward(ids, tokens):
  """As a runner calls a model that reports nothing and keeps nothing."""
  return Answer(_apply(ids, tokens), {}, {})


def _by_hand(batch, z_loss):
  """(weighted mean of the loss, sum of nll, sum of weights), token by token."""
  logits = np.asarray(_apply(*NextToken().model_inputs(batch)), np.float64)
  nll_sum = z_sum = weight_sum = 0.0
  for b, t in np.ndindex(B, T):
    weight = float(batch["decoder_loss_weights"][b, t])
    log_z = math.log(np.exp(logits[b, t]).sum())
    nll_sum += weight * (log_z - logits[b, t, batch["decoder_target_tokens"][b, t]])
    z_sum += weight * log_z**2
    weight_sum += weight
  return (nll_sum + z_loss * z_sum) / weight_sum, nll_sum, weight_sum


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_the_loss_is_the_weighted_mean_of_each_tokens_loss(batch, z_loss):
  objective = NextToken(z_loss=z_loss)
  loss, collection, *_ = objective.loss(_forward, batch, objective.totals(batch))
  want, nll_sum, weight_sum = _by_hand(batch, z_loss)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  summary = objective.summary(collection)
  np.testing.assert_allclose(summary["loss"], nll_sum / weight_sum, rtol=1e-5)
  if z_loss:
    np.testing.assert_allclose(summary["z_loss"], want - nll_sum / weight_sum, rtol=1e-4)


@pytest.mark.parametrize("cuts", [(2,), (1, 2, 3), (3,)])
def test_the_losses_of_parts_sum_to_that_of_the_whole(batch, cuts):
  objective = NextToken(z_loss=0.1, token_bytes=np.arange(V, dtype=np.float32))
  totals = objective.totals(batch)
  whole, collection, *_ = objective.loss(_forward, batch, totals)
  loss_sum, merged = 0.0, objective.empty_metrics()
  for rows in np.split(np.arange(B), cuts):
    part = jax.tree.map(lambda x, rows=rows: x[rows], batch)
    loss, metrics, *_ = objective.loss(_forward, part, totals)
    loss_sum, merged = loss_sum + loss, merged.merge(metrics)
  np.testing.assert_allclose(loss_sum, whole, rtol=1e-5)
  got, want = objective.summary(merged), objective.summary(collection)
  assert got.keys() == want.keys() == {"loss", "bits_per_byte", "z_loss"}
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-5)


def test_bits_per_byte_count_the_bytes_that_tokens_stand_for(batch):
  token_bytes = np.arange(V, dtype=np.float32)
  objective = NextToken(token_bytes=token_bytes)
  _, collection, *_ = objective.loss(_forward, batch, objective.totals(batch))
  num_bytes = (
    token_bytes[batch["decoder_target_tokens"]] * batch["decoder_loss_weights"]
  ).sum()
  want = _by_hand(batch, 0.0)[1] / math.log(2) / num_bytes
  np.testing.assert_allclose(objective.summary(collection)["bits_per_byte"], want, rtol=1e-5)


def test_what_is_not_known_is_not_reported(batch):
  objective = NextToken()
  _, collection, *_ = objective.loss(_forward, batch, objective.totals(batch))
  assert set(objective.summary(collection)) == {"loss"}


def test_a_batch_of_padding_alone_has_no_loss_and_no_nan(batch):
  batch = batch | {"decoder_loss_weights": jnp.zeros((B, T))}
  objective = NextToken(z_loss=0.1)
  loss, collection, *_ = objective.loss(_forward, batch, objective.totals(batch))
  assert loss == 0.0
  assert collection.loss.total == collection.loss.count == 0.0


def test_rows_are_numbered_within_the_global_batch(batch):
  np.testing.assert_array_equal(batch["rows"], np.arange(B))
  ids, tokens = NextToken().model_inputs(batch)
  np.testing.assert_array_equal(ids, batch["decoder_input_tokens"])
  np.testing.assert_array_equal(tokens.segments, batch["decoder_segment_ids"])
  np.testing.assert_array_equal(tokens.rows, np.arange(B))


@pytest.mark.parametrize("kind", [PackedRows, PaddedRows])
def test_with_equal_documents_the_loss_is_the_mean_of_the_documents_means(kind):
  lengths = [5, 2, 9, 3]
  tokens = np.random.default_rng(1).integers(0, V, sum(lengths)).astype(np.uint16)
  offsets = np.append(0, np.cumsum(lengths))
  learned = np.array([0, 0, 1, 1, 1, 0, 1] + [0, 0, 0, 1, 0, 1, 1, 1, 1] + [0, 1, 1], np.uint8)

  def loss_of(kind, sequence_length, offsets, **weighting):
    rows = kind(tokens, offsets, sequence_length, **weighting)
    batch = with_rows(jax.tree.map(jnp.asarray, rows.rows(np.arange(rows.num_rows))))
    forward = lambda ids, tokens: _forward(
      ids, tokens.replace(rows=jnp.zeros_like(tokens.rows))
    )
    objective = NextToken()
    return objective.loss(forward, batch, objective.totals(batch)).loss

  means = [loss_of(PaddedRows, 9, offsets[i : i + 2], weights=learned) for i in range(4)]
  whole = loss_of(kind, 40, offsets, weights=learned, equal_documents=True)
  np.testing.assert_allclose(whole, np.mean(means), rtol=1e-6)


def test_weights_that_sum_to_less_than_1_give_a_mean_still(batch):
  objective, key = NextToken(), "decoder_loss_weights"
  small = {**batch, key: batch[key] / 1000}
  loss = objective.loss(_forward, batch, objective.totals(batch))[0]
  assert objective.totals(small) < 0.1
  np.testing.assert_allclose(
    objective.loss(_forward, small, objective.totals(small))[0], loss, rtol=1e-6
  )


def test_by_rows_the_loss_is_the_mean_of_the_rows_means_however_they_are_split(batch):
  key = "decoder_loss_weights"
  weights = np.zeros((B, T), np.float32)
  weights[0, :2], weights[1] = 0.25, 1.0  # one row of little weight; the others learn nothing
  batch = {**batch, key: jnp.asarray(weights), "decoder_segment_ids": jnp.ones((B, T), int)}
  objective, tokens = RowMeanNextToken(), NextToken()
  of_row = lambda row, objective: objective.loss(
    _forward, {name: x[row : row + 1] for name, x in batch.items()}, jnp.float32(1.0)
  )[0]
  means = [of_row(0, tokens) / 0.5, of_row(1, tokens) / T]  # LWM: sum / max(sum of weights)
  loss, collection, *_ = objective.loss(_forward, batch, objective.totals(batch))
  np.testing.assert_allclose(loss, sum(means) / B, rtol=1e-6)
  np.testing.assert_allclose(collection.compute()["loss"], loss, rtol=1e-6)
  parts = [of_row(row, objective) for row in range(B)]
  np.testing.assert_allclose(sum(parts) / B, loss, rtol=1e-6)
  # Rows of padding fill a last batch up, and change nothing.
  padded = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), batch)
  assert objective.totals(padded) == B
  again = objective.loss(_forward, padded, objective.totals(padded))[0]
  np.testing.assert_allclose(again, loss, rtol=1e-6)
