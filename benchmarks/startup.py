"""How long a command takes to answer, and where the time of a training run goes before step 1.

python benchmarks/startup.py             about five minutes
python benchmarks/startup.py --quick     every row once

Each figure is the median of processes of their own, run in turn. They inherit the environment:
what is warm is the operating system's cache of files, once the first round has been. CPU time
is the least of all rounds: what else the machine does can only add to it.

Training is `runner --exp=gpt2.Nano` up to the line of its first step. Its token store exists;
what is cold or warm is the compilation cache. The stages below it are those of another process
that calls what the command calls, in the same order, but for what the workdir, checkpoints and
writers take; `imports` begins with the process. `first step` has the program loaded and runs.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from measuring import interleaved, print_head, print_table

EXPERIMENT = "--exp=gpt2.Nano"
RUNNER = ("-m", "experiments")
COMMANDS = {
  "python -c pass": ("-c", "pass"),
  "import jax": ("-c", "import jax"),
  "runner list": (*RUNNER, "list"),
  "runner show": (*RUNNER, "show", EXPERIMENT),
  "override error": (*RUNNER, "show", EXPERIMENT, "--set=model.num_layerz=6"),
}
EXIT_CODES = {"override error": 2}
ONE_STEP = ("num_steps=1", "log_every=1", "eval_data={}", "writers=[@Console()]")
SMALL = ("model.num_layers=1", "model.model_dim=32", "batch_size=2", "sequence_length=32")

STAGES = """
import json, sys, time
stages, last = {}, float(sys.argv[1])

def reached(stage):
  global last
  now = time.time()
  stages[stage], last = 1e3 * (now - last), now

cache_dir, settings = sys.argv[2], sys.argv[3:]
from experiments import command_line
from experiments.override_arguments import Override
from experiments.resolution import resolve
import jax
from runners.processes import compilation_cache
from runners.processes import host_allocator
from runners.assembly import assemble
from runners.devices.meshes import place
reached("imports")
config = resolve("gpt2.Nano", [Override("set", text) for text in settings]).config
reached("config")
host_allocator.share_one_arena()
compilation_cache.enable(cache_dir)
host_allocator.keep_freed_memory()
jax.devices()
reached("devices")
assembly = assemble(config, cache_dir)
reached("data, shapes")
state = jax.block_until_ready(assembly.initializer.init())
reached("parameters")
assembly.model_flops()
reached("FLOPs")
batch = place(assembly.batches[0], assembly.batch_sharding)
compiled = assembly.train_step().lower(state, batch).compile()
reached("compile")
jax.block_until_ready(compiled(state, batch))
reached("first step")
print(json.dumps(stages))
"""


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="each once, and a tiny model")
  parser.add_argument("--repeats", type=int, default=7, help="rounds (default: 7)")
  options = parser.parse_args()
  repeats = 1 if options.quick else options.repeats
  print_head("jax", "flax", "fiddle", "orbax-checkpoint")
  commands(repeats)
  with tempfile.TemporaryDirectory() as folder:
    training(Path(folder), (*ONE_STEP, *SMALL) if options.quick else ONE_STEP, repeats)


def commands(repeats: int) -> None:
  """Commands that build nothing."""
  cases = {name: _command(name, arguments) for name, arguments in COMMANDS.items()}
  times = interleaved(cases, repeats)
  bare = times["python -c pass"]
  rows = [
    (name, 1e3 * s, 1e3 * (s - bare), min(_cpu_ms(cases[name]) for _ in range(repeats)))
    for name, s in times.items()
  ]
  print("Commands\n")
  print_table(("command", "ms", "above bare Python", "CPU ms, least"), rows)


def training(folder: Path, settings: Sequence[str], repeats: int) -> None:
  """A run up to its first step, and the stages on the way."""
  _python(*RUNNER, "data", EXPERIMENT, "--cache", f"--cache_dir={folder}")
  stages: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}

  def cold(case: Callable[[], object]) -> Callable[[], object]:
    def start() -> None:
      shutil.rmtree(folder / "xla", ignore_errors=True)
      case()

    return start

  first_step = lambda: _until_first_step(folder, settings)
  times = interleaved(
    {
      "cold": cold(first_step),
      "warm": first_step,
      "cold stages": cold(lambda: stages["cold"].append(_stages(folder, settings))),
      "warm stages": lambda: stages["warm"].append(_stages(folder, settings)),
    },
    repeats,
  )
  print("Training, to its first step\n")
  print_table(
    ("compilation cache", "ms"), [(name, 1e3 * times[name]) for name in ("cold", "warm")]
  )
  print("Its stages, ms\n")
  columns = {name: _medians(measured) for name, measured in stages.items()}
  rows = [(stage, *(column[stage] for column in columns.values())) for stage in columns["cold"]]
  print_table(("stage", *columns), rows)


def _cpu_ms(case: Callable[[], object]) -> float:
  """User and system time of the process that `case` starts and waits for."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  case()
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _command(name: str, arguments: Sequence[str]) -> Callable[[], object]:
  return lambda: _python(*arguments, want=EXIT_CODES.get(name, 0))


def _python(*arguments: str, want: int = 0) -> str:
  result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
  if result.returncode != want:
    sys.exit(f"{' '.join(arguments)}\nexit code {result.returncode}:\n{result.stderr}")
  return result.stdout


def _until_first_step(folder: Path, settings: Sequence[str]) -> None:
  """Starts a run in a new workdir and stops it when it has told of its first step."""
  with tempfile.TemporaryDirectory(dir=folder) as workdir:
    arguments = [EXPERIMENT, f"--workdir={workdir}", f"--cache_dir={folder}"]
    arguments += [f"--set={text}" for text in settings]
    process = subprocess.Popen(
      [sys.executable, *RUNNER, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = any(line.startswith("step 1/1 ") for line in process.stdout)
    process.kill()
    process.wait()
  if not told:
    sys.exit("the run ended before its first step")


def _stages(folder: Path, settings: Sequence[str]) -> dict[str, float]:
  return json.loads(_python("-c", STAGES, str(time.time()), str(folder), *settings))


def _medians(measured: Sequence[dict[str, float]]) -> dict[str, float]:
  return {key: statistics.median(one[key] for one in measured) for key in measured[0]}


if __name__ == "__main__":
  main()
