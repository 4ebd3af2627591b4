"""A second process finds the programs of the first, in the place that JAX was told."""

import pytest

CODE = """
import json, sys
import jax, jax.numpy as jnp
from runners.processes import compilation_cache
compilation_cache.enable({cache_dir!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(
  lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(json.dumps([jax.config.jax_compilation_cache_dir, len(hits)]))
"""


@pytest.fixture(autouse=True)
def no_cache_of_the_suite(monkeypatch):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)


def test_the_second_process_compiles_nothing(tmp_path, run_with_devices):
  code = CODE.format(cache_dir=str(tmp_path))
  assert run_with_devices(1, code) == [str(tmp_path / "xla"), 0]
  assert any((tmp_path / "xla").iterdir())
  assert run_with_devices(1, code)[1] > 0


def test_a_place_that_jax_was_told_is_kept(tmp_path, monkeypatch, run_with_devices):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
  code = CODE.format(cache_dir=str(tmp_path / "strata"))
  assert run_with_devices(1, code)[0] == str(tmp_path / "mine")
  assert not (tmp_path / "strata").exists()
