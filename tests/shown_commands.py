"""The commands that README.md and CONTRIBUTING.md show: found, shrunk and run."""

import os
import re
import shlex
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from tests import warm_processes

ROOT = Path(__file__).parent.parent

# TensorBoard is left out because it takes longer to import than the run takes.
SHRUNK = (
  "--set=num_steps=2",
  "--set=batch_size=2",
  "--set=sequence_length=32",
  "--set=model.model_dim=32",
  "--set=model.num_layers=1",
  "--set=eval_data['validation'].num_batches=1",
  "--set=writers=[@Console(), @JsonLines()]",
)

# Each command, and a part of what it prints when all is well.
PRINTED = {
  "doctor": "two steps   loss ",
  "list": "gpt2.ShakespeareCharCpu",
  "eval": "eval/validation/loss=",
  "generate": "def main(",
  "ckpt ls": " MB",
  "ckpt verify": "  intact: ",
  "show": "model.block.feed_forward.hidden_dim = None",
  "show --sharding": "parameters  20      1,557",
  "why": "optimizer.learning_rate.peak = ",
  "diff": " -> ",
  "data": "segment 1",
  "plan": "fits: the peak is",
  "export": "GPT2LMHeadModel",
  "sweep": "table     sweeps/",
  "train": "done: ",
}


_DONE = "--- that was one command of the page ---"


def blocks(page: str, language: str) -> list[str]:
  """The contents of the fenced blocks of a Markdown page."""
  return re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)


def runner_commands(page: str) -> list[list[str]]:
  """The arguments of each `runner` command in the shell blocks of a page, in order."""
  lines = "".join(blocks(page, "sh")).splitlines()
  words = (shlex.split(line, comments=True) for line in lines)
  return [arguments for program, *arguments in filter(None, words) if program == "runner"]


def command_of(arguments: list[str]) -> str:
  if "--sharding" in arguments:
    return "show --sharding"
  if arguments[0] == "ckpt":
    return " ".join(arguments[:2])
  return arguments[0] if arguments[0] in PRINTED else "train"


def shrunk(arguments: list[str]) -> list[str]:
  """The same command at toy size. A command that reads an earlier run finds it small."""
  reads_a_run = any(argument.startswith("--config=") for argument in arguments)
  if reads_a_run or command_of(arguments) not in (
    "train",
    "sweep",
    "show",
    "why",
    "data",
  ):
    return arguments
  own = [re.sub(r"^--set=num_steps=\d+$", "--set=num_steps=3", a) for a in arguments]
  set_already = {argument.split("=")[1] for argument in own if argument.startswith("--set=")}
  return own + [flag for flag in SHRUNK if flag.split("=")[1] not in set_already]


def ended(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
  """How a command ends, started in `folder`."""
  return subprocess.run(
    [sys.executable, "-m", "experiments", *arguments],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=300,
    env=dict(os.environ),
  )


def ended_warm(arguments: list[str], folder: Path) -> subprocess.CompletedProcess:
  """As `ended`, sooner: in a process that has its libraries already."""
  code = "import sys; from experiments.entry import main; sys.argv[1:] = {}; sys.exit(main())"
  code = code.format(arguments)
  return warm_processes.run(code, dict(os.environ), folder, timeout_s=300)


def run(arguments: list[str], folder: Path, ended: Callable = ended) -> str:
  """What a command prints, started in `folder`; it must succeed."""
  result = ended(arguments, folder)
  assert result.returncode == 0, f"runner {shlex.join(arguments)}\n{result.stderr}"
  return result.stdout


def check_all(commands: list[list[str]], folder: Path) -> None:
  """Runs the commands in order, shrunk, each of which must print what PRINTED says."""
  for arguments in commands:
    printed = run(shrunk(arguments), folder, ended_warm)
    assert PRINTED[command_of(arguments)] in printed, f"runner {shlex.join(arguments)}"


def check_in_one_shell(page: str, folder: Path) -> None:
  """Runs the commands of a page, shrunk, line by line in one `sh` that finds no `runner` yet.

  The folder is as `make` leaves a checkout: with an environment in .venv, which is not active.
  """
  make_environment(folder / ".venv")
  blocks_ = [block for block in blocks(page, "sh") if not block.startswith("make ")]
  commands: list[list[str]] = []
  script = ["set -e"]
  for line in "".join(blocks_).splitlines():
    program, *arguments = shlex.split(line, comments=True) or [""]
    if program == "runner":
      commands.append(arguments)
      script += [shlex.join(["runner", *shrunk(arguments)]), f"echo '{_DONE}'"]
    else:
      script.append(line)
  folders = os.environ["PATH"].split(os.pathsep)
  without = [path for path in folders if not (Path(path) / "runner").exists()]
  result = subprocess.run(
    ["sh", "-c", "\n".join(script)],
    cwd=folder,
    capture_output=True,
    text=True,
    env={**os.environ, "PATH": os.pathsep.join(without)},
  )
  printed = result.stdout.split(_DONE)
  for arguments, text in zip(commands, printed, strict=False):
    what = f"runner {shlex.join(arguments)}\n{text}\n{result.stderr}"
    assert PRINTED[command_of(arguments)] in text, what
  assert result.returncode == 0 and len(printed) == len(commands) + 1, result.stderr


def make_environment(folder: Path) -> None:
  """An environment with what this process can import, and the `runner` that pip would make."""
  venv.create(folder, with_pip=False)
  python = folder / "bin" / "python"
  (site,) = folder.glob("lib/python*/site-packages")
  (site / "here.pth").write_text("\n".join([str(ROOT), *filter(os.path.isdir, sys.path)]))
  runner = folder / "bin" / "runner"
  runner.write_text(
    f"#!{python}\nimport sys\nfrom experiments.entry import main\nsys.exit(main())\n"
  )
  runner.chmod(0o755)
