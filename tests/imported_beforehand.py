"""Imports what most processes of the tests need (tests/warm_processes.py)."""

import clu.metric_writers  # noqa: F401
import orbax.checkpoint  # noqa: F401
import seqio  # noqa: F401  brings TensorFlow, which takes longest
