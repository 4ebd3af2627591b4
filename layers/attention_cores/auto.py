"""The attention core that suits the platform, the mesh and the length."""

import jax

from layers.attention_cores.choice import Choice, kernel_for
from layers.attention_cores.heads_and_rows import SPLIT_ROWS
from layers.attention_cores.request import AttentionRequest, core_name
from layers.attention_cores.ring import RingAttention
from layers.notices import remark
from layers.sharding import axis_devices, on_mesh


def auto_attention(request: AttentionRequest) -> jax.Array:
  """See `AttentionCore`. What it chose goes on record (layers/notices.py)."""
  core, why = chosen(request)
  if on_mesh():  # without one another core may be chosen, and is not run
    remark(f"Attention is {core_name(core)}: {why}.")
  return core(request)


def chosen(request: AttentionRequest) -> Choice:
  """A ring where rows are split over devices, else what `kernel_for` takes for a device.

  Args:
    request: of its heads only the shapes are read.
  """
  _, ring_size = axis_devices("length", SPLIT_ROWS)
  if ring_size > 1 and request.same_tokens and request.drop_weights is None:
    length = request.query.shape[1]
    return Choice(RingAttention(), f"rows of {length} tokens lie on {ring_size} devices")
  return kernel_for(request)
