"""Batches on which every attention core is held against the dense reference."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest
from layers.masks import BlockCausal, Mask, SlidingWindow, causal_mask, full_mask
from layers.tokens import Tokens

NAMES = ("out", "dquery", "dkey", "dvalue")

# Each program runs once: what would make it faster costs more than it saves.
_COMPILED_ONCE = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}

# Layout and mask, each of them at least once; all masks where rows hold several segments.
CASES = [("whole", "causal"), ("padded", "causal"), ("padded", "window")]
CASES += [("packed", mask) for mask in ("causal", "full", "window", "block_causal")]

MASKS: dict[str, Mask] = {
  "causal": causal_mask,
  "full": full_mask,
  "window": SlidingWindow(size=11),
  "block_causal": BlockCausal(size=6),
}


class Batch(NamedTuple):
  """Operands [B, T, heads, 8], their coordinates, and a gradient of the output."""

  query: jax.Array
  key: jax.Array
  value: jax.Array
  tokens: Tokens
  gradient: jax.Array


def tokens(layout: str, num_rows: int, length: int) -> Tokens:
  """Coordinates: "whole" rows of one segment, "packed" with several, "padded" at the end."""
  if layout == "whole":
    return Tokens.unpacked(num_rows, length)
  random = np.random.default_rng(0)
  positions, segments = np.zeros((2, num_rows, length), np.int32)
  for row in range(num_rows):
    end = length if layout == "packed" else length * 2 // 3 + row
    cuts = (
      sorted(random.choice(np.arange(1, end), 3, replace=False)) if layout == "packed" else []
    )
    for i, (start, stop) in enumerate(zip([0, *cuts], [*cuts, end], strict=True)):
      positions[row, start:stop] = np.arange(stop - start)
      segments[row, start:stop] = i + 1
    positions[row, end:] = np.arange(length - end)
  rows = jnp.arange(num_rows, dtype=jnp.int32)
  return Tokens(jnp.asarray(positions), jnp.asarray(segments), rows)


def batch(layout: str, length: int, *, num_heads=4, num_kv_heads=2, num_rows=2) -> Batch:
  """Standard normal heads of 8 features."""
  keys = jax.random.split(jax.random.key(length), 4)
  heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
  query, key, value, gradient = (
    jax.random.normal(k, (num_rows, length, n, 8)) for k, n in zip(keys, heads, strict=True)
  )
  return Batch(query, key, value, tokens(layout, num_rows, length), gradient)


def results(core: Any, batch: Batch, mask: Mask) -> list[jax.Array]:
  """Output and the gradients of query, key and value."""
  return _results(core, mask, *batch)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=_COMPILED_ONCE)
def _results(core, mask, query, key, value, tokens, gradient):
  attend = lambda *heads: core(AttentionRequest(*heads, tokens, tokens, mask=mask))
  out, pullback = jax.vjp(attend, query, key, value)
  return [out, *pullback(gradient)]


def assert_like_dense(core: Any, batch: Batch, mask: Mask, tolerance: float = 1e-5) -> None:
  """Forward and backward, in float32."""
  found, wanted = results(core, batch, mask), results(dense_attention, batch, mask)
  for name, got, want in zip(NAMES, found, wanted, strict=True):
    scale = max(1.0, np.abs(want).max())
    np.testing.assert_allclose(got / scale, want / scale, atol=tolerance, err_msg=name)


def assert_documents_apart(core: Any, batch: Batch, mask: Mask) -> None:
  """Law 4: another first document changes nothing of the others, to the bit."""
  first = (batch.tokens.segments == 1)[:, :, None, None]
  changed = [jnp.where(first, x + 1, x) for x in batch[:3]]
  before = results(core, batch, mask)
  after = results(
    core, batch._replace(query=changed[0], key=changed[1], value=changed[2]), mask
  )
  for name, x, y in zip(NAMES, before, after, strict=True):
    np.testing.assert_array_equal(*(np.where(first, 0, z) for z in (x, y)), err_msg=name)
    assert not np.array_equal(x, y), name
