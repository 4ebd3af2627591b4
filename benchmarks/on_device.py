"""What is measured on one device, the first that JAX finds: attention alone, and a step.

The highest memory of a device never falls while its process lives: who asks for it measures one
case in a process. Arrays are made on the host, so that making them takes nothing of the device.

Letters: B batch, T length, N query heads, K key heads, H head dimension.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import fiddle as fdl
import jax
import jax.numpy as jnp
import numpy as np

from layers.attention_cores.auto import auto_attention, chosen
from layers.attention_cores.dense import dense_attention
from layers.attention_cores.request import AttentionRequest
from layers.tokens import Tokens
from runners.assembly import jitted_train_step
from runners.blueprint import draw, lay_ground
from runners.devices.flops import peak_flops
from runners.devices.memory import check_memory, device_bytes
from runners.devices.meshes import batch_sharding, place
from runners.step_flops import model_flops

DTYPE = "bfloat16"
GRADIENTS = ("output", "dquery", "dkey", "dvalue")
_DOCUMENTS = 8  # of a packed row


class Shape(NamedTuple):
  """Of the operands: one row of T tokens, "whole" or "packed", N and K heads of H features."""

  length: int
  rows: str
  num_heads: int
  num_kv_heads: int
  head_dim: int


def device() -> dict[str, Any]:
  """What there is: platform, kind, the memory that programs may use, peak FLOP/s."""
  found = jax.devices()[0]
  return {
    "platform": found.platform,
    "kind": found.device_kind,
    "bytes": _limit(),
    "peak_flops": peak_flops(found.device_kind),
  }


def core(reference: Callable[..., Any], shape: Shape) -> Any:
  """The attention core that a class or function means; what `auto_attention` takes here."""
  if reference is auto_attention:
    heads = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in _operands(shape)[:3]]
    return chosen(_request(heads, tokens(shape.rows, 1, shape.length), DTYPE)).core
  return reference() if isinstance(reference, type) else reference


def tokens(rows: str, num_rows: int, length: int) -> Tokens:
  """Rows of one segment; or "packed" with 8 documents of random lengths, and padding."""
  if rows == "whole":
    return Tokens.unpacked(num_rows, length)
  random = np.random.default_rng(length)
  positions, segments = np.zeros((2, num_rows, length), np.int32)
  end = length - length // 50 - 1
  for row in range(num_rows):
    cuts = np.sort(random.choice(np.arange(1, end), _DOCUMENTS - 1, replace=False))
    edges = [0, *cuts.tolist(), end, length]
    for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
      positions[row, start:stop] = np.arange(stop - start)
      segments[row, start:stop] = (i + 1) % (_DOCUMENTS + 1)  # 0: padding
  rows_of = np.arange(num_rows, dtype=np.int32)
  return Tokens(*(jnp.asarray(x) for x in (positions, segments, rows_of)))


def parity(attend: Any, shape: Shape) -> dict[str, dict[str, float]]:
  """How far a core is from the dense one, and that from itself in float32.

  Returns:
    For the output and each gradient the largest difference ("apart"), the same over the
    largest value of the reference ("apart_relative"), and both of dense attention in bfloat16
    against float32 ("yardstick", "yardstick_relative").
  """
  operands = [jnp.asarray(x, jnp.float32) for x in _operands(shape)]
  there = tokens(shape.rows, 1, shape.length)
  found = _results(attend, DTYPE, operands, there)
  dense = _results(dense_attention, DTYPE, operands, there)
  with jax.default_matmul_precision("highest"):  # TPUs and GPUs round float32 as well
    exact = _results(dense_attention, "float32", operands, there)
  compared = {}
  for name, *arrays in zip(GRADIENTS, found, dense, exact, strict=True):
    apart, scale = _apart(arrays[0], arrays[1])
    yardstick, exact_scale = _apart(arrays[1], arrays[2])
    compared[name] = {
      "apart": apart,
      "apart_relative": apart / scale,
      "yardstick": yardstick,
      "yardstick_relative": yardstick / exact_scale,
    }
  return compared


def attention_time(attend: Any, shape: Shape, backward: bool, repeats: int) -> dict[str, Any]:
  """What `timed` says of a core, forward or forward and backward, on operands in bfloat16."""
  *heads, gradient = (jnp.asarray(x) for x in _operands(shape))
  there = tokens(shape.rows, 1, shape.length)

  def forward(there: Tokens, *heads: Any) -> Any:
    return attend(_request(heads, there, DTYPE)).astype(DTYPE)

  def both(there: Tokens, gradient: Any, *heads: Any) -> Any:
    return jax.vjp(functools.partial(forward, there), *heads)[1](gradient)

  if not backward:
    return timed(forward, (there, *heads), repeats)
  return timed(both, (there, gradient, *heads), repeats)


def timed(function: Callable, arguments: Sequence[Any], repeats: int) -> dict[str, Any]:
  """Compiles, warms up and runs `function` on arrays.

  Returns:
    "planned": the compiler's count of operands, results and temporaries, None where it
    refuses. "seconds": the median. "peak": bytes of the device at their highest, None on a
    CPU. Without the last two: it does not fit the device.
  """
  try:
    compiled = jax.jit(function).lower(*arguments).compile()
    analysis: Any = compiled.memory_analysis()
    planned = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    planned += analysis.temp_size_in_bytes
  except jax.errors.JaxRuntimeError as error:
    _check_full(error)
    return {"planned": None}
  limit = _limit()
  if limit is not None and planned > limit:
    return {"planned": planned}
  try:
    seconds = median_seconds(lambda: jax.block_until_ready(compiled(*arguments)), repeats)
  except jax.errors.JaxRuntimeError as error:
    _check_full(error)
    return {"planned": planned}
  return {"planned": planned, "seconds": seconds, "peak": _peak()}


def median_seconds(run: Callable[[], object], repeats: int) -> float:
  """Of one call, after one that warms up; `run` waits for the device."""
  run()
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    run()
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def training_step(config: fdl.Config, rows: str, repeats: int) -> dict[str, Any]:
  """An update of an experiment on random ids.

  Args:
    config: of a Trainer. Changed: the batch is one microbatch, products are in bfloat16.
    rows: "whole" or "packed".

  Returns:
    "tokens", "flops" (of the model), "parameters"; "seconds" and "peak" as `timed` has them,
    which are missing where it does not fit the device.
  """
  config.microbatch_size, config.precision.compute_dtype = None, DTYPE
  ground = lay_ground(config)
  mesh = ground.mesh.build(jax.devices()[:1])
  blueprint = draw(ground, mesh)
  trainer, initializer = blueprint.trainer, blueprint.initializer
  check_memory(initializer.abstract, mesh)
  update = jitted_train_step(trainer, initializer, mesh)
  facts = {
    "tokens": trainer.batch_size * trainer.sequence_length,
    "flops": model_flops(blueprint.config.model, trainer, initializer.abstract),
    "parameters": initializer.num_params(),
  }
  batch = place(_batch(trainer, rows), batch_sharding(mesh))
  try:
    state = initializer.init()

    def run() -> None:
      nonlocal state
      state, loss = jax.block_until_ready(update(state, batch))
      if not np.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss}")

    seconds = median_seconds(run, repeats)
  except jax.errors.JaxRuntimeError as error:
    _check_full(error)
    return facts
  return {**facts, "seconds": seconds, "peak": _peak()}


def _batch(trainer: Any, rows: str) -> dict[str, Any]:
  there = tokens(rows, trainer.batch_size, trainer.sequence_length)
  shape = (trainer.batch_size, trainer.sequence_length)
  random = np.random.default_rng(0)
  ids = random.integers(trainer.model.vocab_size, size=shape, dtype=np.int32)
  return {
    "decoder_input_tokens": ids,
    "decoder_target_tokens": np.roll(ids, -1, axis=1),
    "decoder_positions": np.asarray(there.positions),
    "decoder_segment_ids": np.asarray(there.segments),
    "decoder_loss_weights": np.asarray(there.segments > 0, np.float32),
  }


def _operands(shape: Shape) -> list[np.ndarray]:
  """Query, key, value and a gradient of the output: standard normal, in bfloat16."""
  random = np.random.default_rng(0)
  heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads, shape.num_heads)
  sizes = [(1, shape.length, count, shape.head_dim) for count in heads]
  return [random.standard_normal(size, np.float32).astype(jnp.bfloat16) for size in sizes]


def _request(heads: Sequence[Any], there: Tokens, compute_dtype: str) -> AttentionRequest:
  query, key, value = heads
  return AttentionRequest(query, key, value, there, there, compute_dtype=compute_dtype)


def _results(
  attend: Any, compute_dtype: str, operands: Sequence[Any], there: Tokens
) -> list[np.ndarray]:
  @jax.jit
  def run(there: Tokens, gradient: Any, *heads: Any) -> Any:  # constants would be folded
    forward = lambda *heads: attend(_request(heads, there, compute_dtype))
    out, pullback = jax.vjp(forward, *heads)
    return [out, *pullback(gradient)]

  *heads, gradient = operands
  return [np.asarray(x, np.float64) for x in run(there, gradient, *heads)]


def _apart(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
  """The largest difference, and the largest value of what is wanted."""
  return float(np.abs(found - wanted).max()), float(np.abs(wanted).max())


def _limit() -> int | None:
  return device_bytes(jax.sharding.Mesh(jax.devices()[:1], "all"))


def _peak() -> int | None:
  return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _check_full(error: Exception) -> None:
  """Raises the error again unless it says that the device is full."""
  if "RESOURCE_EXHAUSTED" not in str(error):
    raise error
