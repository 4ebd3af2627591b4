"""`runner doctor` works where little else does: each fault is a line with what to do."""

import json
import os

import pytest

from experiments.commands import doctor
from runners.devices import absent_accelerators, host, installation

CPU = {"devices": [{"platform": "cpu", "kind": "cpu", "memory": None}], "error": None}
GPU = {"platform": "gpu", "kind": "NVIDIA H200", "memory": 139 * 2**30}


@pytest.fixture
def examined(run, monkeypatch, tmp_path):
  """What the command finds where its processes answer so: {what: cure}, and the exit code."""
  monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setattr(host, "has_gpu", lambda: False)
  monkeypatch.setattr(absent_accelerators, "has_tpu", lambda: False)
  monkeypatch.setattr(installation, "findings", lambda: [])
  answers = {"report": {**CPU, "broken": {}}, "steps": (0, "", "")}

  def answer(command, folder=None):
    if folder is None:
      return 0, json.dumps(answers["report"]) + "\n", ""
    if not answers["steps"][0]:
      (folder / "run").mkdir()
      rows = "".join(json.dumps({"train/loss": loss}) + "\n" for loss in (5.5, 5.25))
      (folder / "run" / "metrics.jsonl").write_text(rows)
      (folder / "run" / "run.json").write_text('{"starts": [{"devices": "1 x cpu (cpu)"}]}')
    return answers["steps"]

  monkeypatch.setattr(doctor, "_run", answer)

  def call(report=None, steps=(0, "", "")):
    answers.update(report={**CPU, "broken": {}, **(report or {})}, steps=steps)
    code, out, err = run("doctor", "--json")
    assert err == []
    found = json.loads(out)
    assert (found["two_steps"]["error"] is None) == (code == 0)
    return {one["what"]: one["cure"] for one in found["findings"]}, code

  return call


def test_where_all_is_well_nothing_is_found(examined):
  assert examined() == ({}, 0)


def test_a_gpu_that_jax_does_not_use_has_a_cure_for_each_cause(examined, monkeypatch):
  monkeypatch.setattr(host, "has_gpu", lambda: True)
  assert examined({"devices": [GPU]}) == ({}, 0)
  monkeypatch.setattr(installation, "versions", lambda: {"jax": "0.10.2"})
  no_plugin = {"there is a GPU, and jax has no plugin for it": "pip install 'strata[gpu]'"}
  assert examined() == (no_plugin, 0)
  monkeypatch.setattr(installation, "versions", lambda: {"jax-cuda12-plugin": "0.10.2"})
  ((what, cure),) = examined()[0].items()
  assert "although a CUDA plugin is installed" in what and "nvidia-smi" in cure
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  hidden = {"there is a GPU, which JAX_PLATFORMS=cpu hides": "unset JAX_PLATFORMS"}
  assert examined() == (hidden, 0)


def test_what_cannot_be_imported_and_a_failing_step_are_a_line_each(examined):
  broken = {"broken": {"tokenizers": "OSError: libfoo.so.1"}}
  found, code = examined(broken, steps=(1, "", "Traceback\n  of many lines\nOSError: full\n"))
  assert code == 1
  assert found["tokenizers cannot be imported: OSError: libfoo.so.1"].startswith("pip install ")
  assert "two steps of a tiny gpt2.Nano fail: OSError: full" in found


def test_a_device_that_jax_cannot_have_is_a_line(examined, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  ((what, cure),) = examined({"devices": [], "error": "no CUDA"})[0].items()
  assert what == "jax has no device for JAX_PLATFORMS=cuda: no CUDA" and "unset" in cure


def test_without_a_home_or_with_an_unwritable_cache_it_says_what_to_set(examined, monkeypatch):
  monkeypatch.setenv("STRATA_CACHE", "/proc/nothing")
  cannot = "the cache /proc/nothing cannot be written"
  assert examined()[0] == {cannot: "export STRATA_CACHE=DIR"}
  monkeypatch.delenv("STRATA_CACHE")
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  no_home = {"this user has no home directory": "export STRATA_CACHE=DIR"}
  assert examined()[0] == no_home


@pytest.mark.slow
def test_two_steps_are_trained_without_tensorflow_and_nothing_is_left(
  run, monkeypatch, tmp_path
):
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken" / "tensorflow.py").write_text("raise ImportError('none here')")
  monkeypatch.syspath_prepend(tmp_path / "broken")
  monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
  (tmp_path / "tmp").mkdir()
  monkeypatch.setattr("tempfile.tempdir", None)
  code, out, err = run("doctor")
  assert (code, err) == (0, []), out
  lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] not in "! ")
  assert lines["devices"].startswith("1 x cpu (cpu)")
  assert " on 1 x cpu (cpu), in " in lines["two"]
  assert list((tmp_path / "tmp").iterdir()) == [] and len(out.splitlines()) <= 24
