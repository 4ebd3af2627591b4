"""Chooses the attention core that suits the platform, the mesh and the length."""

import jax

from layers.attention_cores.choice import Choice, kernel_for
from layers.attention_cores.heads_and_rows import SPLIT_ROWS
from layers.attention_cores.request import AttentionRequest, core_name
from layers.attention_cores.ring import RingAttention
from layers.notices import remark
from layers.sharding import axis_devices, on_mesh


def auto_attention(request: AttentionRequest) -> jax.Array:
  """See `AttentionCore`. The choice is recorded (layers/notices.py)."""
  core, why = chosen(request)
  if on_mesh():  # without a mesh the choice may differ, and is not run
    remark(f"Attention is {core_name(core)}: {why}.")
  return core(request)


def chosen(request: AttentionRequest) -> Choice:
  """A ring if rows are split over devices, else the core that `kernel_for` chooses.

  Args:
    request: only the shapes of its heads are read.
  """
  _, ring_size = axis_devices("length", SPLIT_ROWS)
  if ring_size > 1 and request.same_tokens and request.drop_weights is None:
    length = request.query.shape[1]
    return Choice(RingAttention(), f"rows of {length} tokens lie on {ring_size} devices")
  return kernel_for(request)
