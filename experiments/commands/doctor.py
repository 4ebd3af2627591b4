"""`runner doctor`: reports the installation, the machine, a trial training, and repairs."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.invocation import Invocation
from runners.devices import absent_accelerators, host, installation
from runners.devices.installation import Finding
from runners.processes import signals

_MIB, _GIB = 2**20, 2**30
_MOST_SECONDS = 300.0  # for a process that may hang, say with a broken driver
# The modules of optional parts that commands import; torch and the like take too long to try.
_OPTIONAL = (
  *("fsspec", "pyarrow", "sentencepiece", "tiktoken", "tokenizers", "zstandard"),
  *("datasets", "safetensors"),
)
_TINY = (
  *("--exp=gpt2.Nano", "--set=num_steps=2", "--set=batch_size=2", "--set=sequence_length=32"),
  *("--set=model.num_layers=2", "--set=model.model_dim=32", "--set=log_every=1"),
  *("--set=eval_data={}", "--set=writers=[@JsonLines()]", "--workdir=run", "--cache_dir=cache"),
)
_TEXT = "To be, or not to be, that is the question.\n" * 50


def doctor(invocation: Invocation) -> int:
  """Prints one screen, or JSON; returns 0 if two steps of a tiny model work here, else 1."""
  with signals.Interruption():  # the temporary folder is removed, whatever happens
    answer = examine()
  print(json.dumps(answer, indent=1) if invocation.json else "\n".join(screen(answer)))
  return 0 if answer["two_steps"]["error"] is None else 1


def examine() -> dict[str, Any]:
  """Facts about this installation and machine, with problems and their cures."""
  folders, found = host.folders()
  report = _devices()
  answer = {
    "python": sys.version.split()[0],
    "versions": installation.versions(),
    "extras": _extras(),
    "cores": host.cores(),
    "memory": host.memory(),
    "devices": report["devices"],
    **folders,
    "two_steps": _two_steps(),
  }
  found = [*installation.findings(), *found, *_of_devices(report, answer["versions"])]
  for module, reason in report["broken"].items():
    cure = f"pip install --force-reinstall {module}"
    found.append(Finding(f"{module} cannot be imported: {reason}", cure))
  if answer["two_steps"]["error"]:
    what = f"two steps of a tiny gpt2.Nano fail: {answer['two_steps']['error']}"
    found.append(
      Finding(what, "mend what is listed above; run `runner --exp=gpt2.Nano` for more")
    )
  answer["findings"] = [finding._asdict() for finding in found]
  return answer


def screen(answer: dict[str, Any]) -> Iterator[str]:
  """The lines for people."""
  packages = [f"{name} {version}" for name, version in answer["versions"].items() if version]
  half = (len(packages) + 1) // 2
  yield f"versions    Python {answer['python']}, {', '.join(packages[:half])}"
  yield f"            {', '.join(packages[half:])}"
  yield f"devices     {'; '.join(_device_texts(answer['devices'])) or 'none that jax can use'}"
  yield f"host        {answer['cores']} cores, {_size(answer['memory'])} memory"
  yield f"cache       {_cache_text(answer)}"
  yield f"here        {answer['here']}, {_size(answer['free_here'])} free"
  whole = [name for name, missing in answer["extras"].items() if not missing]
  rest = [name for name, missing in answer["extras"].items() if missing]
  yield f"extras      {', '.join(whole) or 'none'}; not installed: {', '.join(rest) or 'none'}"
  steps = answer["two_steps"]
  outcome = f"failed after {steps['seconds']:.1f} s"
  if steps["error"] is None:
    first, last = steps["losses"]
    outcome = f"loss {first:.4f}, {last:.4f} on {steps['devices']}, in {steps['seconds']:.1f} s"
  yield f"two steps   {outcome}"
  if not answer["findings"]:
    yield "all is well: train with `runner --exp=gpt2.Nano`"
  for finding in answer["findings"]:
    yield f"! {finding['what']}"
    yield f"  -> {finding['cure']}"


def _extras() -> dict[str, list[str]]:
  try:
    return installation.extras()
  except ImportError:  # `packaging` is missing, which a finding reports
    return {}


def _devices() -> dict[str, Any]:
  """The report of runners/devices/device_report.py."""
  code, out, err = _run(
    [sys.executable, "-P", "-m", "runners.devices.device_report", *_OPTIONAL]
  )
  with contextlib.suppress(ValueError, IndexError):
    return json.loads(out.splitlines()[-1])
  return {"devices": [], "error": _last_line(err) or f"it ended with {code}", "broken": {}}


def _of_devices(report: dict[str, Any], versions: dict[str, str | None]) -> Iterator[Finding]:
  asked = os.environ.get("JAX_PLATFORMS")
  platforms = {device["platform"] for device in report["devices"]}
  lacks_gpu = host.has_gpu() and not platforms & {"gpu", "cuda"}
  if report["error"] and asked:
    cure = "unset JAX_PLATFORMS, or install what it asks for: pip install 'strata[gpu]'"
    yield Finding(f"jax has no device for JAX_PLATFORMS={asked}: {report['error']}", cure)
  elif report["error"]:
    yield Finding(f"jax has no device: {report['error']}", "pip install --force-reinstall jax")
  elif lacks_gpu and asked:
    yield Finding(f"there is a GPU, which JAX_PLATFORMS={asked} hides", "unset JAX_PLATFORMS")
  elif lacks_gpu and not any("cuda" in name for name in versions):
    yield Finding("there is a GPU, and jax has no plugin for it", "pip install 'strata[gpu]'")
  elif lacks_gpu:
    what = "there is a GPU, and jax does not use it although a CUDA plugin is installed"
    yield Finding(what, "pip install 'strata[gpu]', and see whether `nvidia-smi` works")
  if absent_accelerators.has_tpu() and "tpu" not in platforms and not asked:
    yield Finding("there is a TPU, and jax does not use it", "pip install 'strata[tpu]'")


def _two_steps() -> dict[str, Any]:
  """Trains a tiny model in a temporary folder, as a command of its own: losses, or an error."""
  began = time.perf_counter()
  try:
    with tempfile.TemporaryDirectory(prefix="strata-doctor-") as name:
      answer = _train(Path(name))
  except OSError as error:
    answer = {"error": f"no temporary folder can be made: {error}; set TMPDIR"}
  return {**answer, "seconds": time.perf_counter() - began}


def _train(folder: Path) -> dict[str, Any]:
  # JSON lines, because they need no TensorFlow, which may be missing or broken.
  (folder / "text.jsonl").write_text(json.dumps({"text": _TEXT}) + "\n")
  data = "@Jsonl(files='text.jsonl')"
  command = [sys.executable, "-P", "-m", "experiments", *_TINY, f"--set=train_data={data}"]
  code, _, err = _run(command, folder)
  if code:
    return {"error": _last_line(err) or f"it ended with {code}"}
  rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
  (start,) = json.loads((folder / "run" / "run.json").read_text())["starts"]
  losses = [row["train/loss"] for row in rows]
  return {"error": None, "losses": losses, "devices": start["devices"]}


def _run(command: Sequence[str], folder: Path | None = None) -> tuple[int, str, str]:
  """Exit code, output and errors of a process with this process's module path."""
  path = os.pathsep.join(os.path.abspath(entry or ".") for entry in sys.path)
  environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "PYTHONPATH": path}
  pipe = subprocess.PIPE
  pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe}
  try:
    process = subprocess.Popen(
      command, cwd=folder, env=environment, text=True, errors="replace", **pipes
    )
  except OSError as error:
    return 1, "", f"{command[0]} cannot be started: {error.strerror}"
  with process:
    try:
      end = time.monotonic() + _MOST_SECONDS
      while time.monotonic() < end:
        signals.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
          out, err = process.communicate(timeout=0.2)
          return process.returncode, out, err
      return 1, "", f"no answer in {_MOST_SECONDS:.0f} s"
    finally:
      process.kill()


def _last_line(text: str) -> str:
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1].removeprefix("runner: error: ") if lines else ""


def _device_texts(devices: Sequence[dict[str, Any]]) -> Iterator[str]:
  """Texts such as `3 x NVIDIA H200 (gpu), 139 GiB each`."""
  kinds = [(d["kind"], d["platform"], d["memory"]) for d in devices]
  for kind, platform, memory in dict.fromkeys(kinds):
    count = kinds.count((kind, platform, memory))
    each = f", {_size(memory)} each" if memory else ""
    yield f"{count} x {kind} ({platform}){each}"


def _cache_text(answer: dict[str, Any]) -> str:
  if answer["cache"] is None:
    return "nowhere: there is no home directory and no STRATA_CACHE"
  stores, programs = _size(answer["token_stores"]), _size(answer["compiled_programs"])
  free = _size(answer["free"])
  return f"{answer['cache']}: token stores {stores}, compiled programs {programs}; {free} free"


def _size(num_bytes: int | None) -> str:
  if num_bytes is None:
    return "unknown"
  unit, size = ("GiB", _GIB) if num_bytes >= _GIB else ("MiB", _MIB)
  return f"{num_bytes / size:.1f} {unit}"
