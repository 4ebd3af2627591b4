"""seqio and TensorFlow, loaded late (9 s, 800 MB) and kept off the accelerators.

TensorFlow reserves the memory of every GPU it sees, which would leave none to JAX. It only
reads and tokenises here, so all GPUs are hidden from it before it can look for them.
"""

import os
from typing import Any

from input_pipelines.native_stderr import without_startup_notices


def import_tensorflow() -> Any:
  """The tensorflow module, with GPUs hidden."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # a missing GPU is no error here
  with without_startup_notices():
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
  return tf


def import_seqio() -> Any:
  """The seqio module, with GPUs hidden from TensorFlow."""
  import_tensorflow()
  import seqio

  return seqio
