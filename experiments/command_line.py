"""The command line: `runner [COMMAND] --exp=NAME [--set=PATH=VALUE]... [--workdir=DIR]...`.

Exit codes: 0 done; 2 the user's input is wrong (reported in one line); 3 a plan does not fit; 1
the run diverged (one line), or any other error (a traceback); 129, 130 and 143 stopped by a
signal.
"""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from experiments.command_flags import define_flags
from experiments.error_lines import error_lines
from experiments.invocation import Invocation
from experiments.override_arguments import VERBS, Override
from experiments.slips import command_cure, flag_cure
from experiments.versions import versions
from layers.errors import Diverged, UserError
from runners.configs.import_by_name import import_module
from runners.processes.signals import Interrupted

DEFAULT_COMMAND = "train"
HELP = "help"

_REPEATABLE = (*VERBS, "load", "accept_change", "sweep", "prompt")
_CONFIG_FLAGS = ("exp", *VERBS, "load")
_PLAN_FLAGS = (
  *("topology", "search", "minutes", "to", "kernels"),
  *("mfu", "tokens", "price", "json"),
)
_SAMPLING_FLAGS = ("prompt", "max_tokens", "temperature", "top_k", "top_p", "seed")


@dataclasses.dataclass(frozen=True)
class Command:
  """A command: its function, its arguments, and the flags that it accepts."""

  function: str  # "module:function" in experiments.commands
  summary: str
  flags: tuple[str, ...] = ()
  arguments: str = ""
  num_arguments: tuple[int, ...] = (0,)

  def run(self, invocation: Invocation) -> int:
    module, function = self.function.split(":")
    return getattr(import_module(f"experiments.commands.{module}"), function)(invocation)


COMMANDS = {
  "train": Command(
    "running:train",
    "trains; the same command again in the same workdir continues",
    (*_CONFIG_FLAGS, "workdir", "accept_change", "cache_dir"),
  ),
  "eval": Command(
    "running:evaluate",
    "evaluates checkpoints of a run",
    (*_CONFIG_FLAGS, "workdir", "step", "cache_dir"),
  ),
  "generate": Command(
    "running:generate",
    "continues --prompt=TEXT [--max_tokens --temperature --top_k --top_p --seed]",
    (*_CONFIG_FLAGS, "workdir", "step", "cache_dir", *_SAMPLING_FLAGS),
  ),
  "sweep": Command(
    "sweeping:sweep",
    "runs the product of --sweep; again: what is left",
    (*_CONFIG_FLAGS, "sweep", "parallel", "sort", "workdir", "cache_dir"),
  ),
  "list": Command(
    "catalogue:list_experiments",
    "every experiment, or those that match a name or tag",
    ("load",),
    "[PATTERN]",
    (0, 1),
  ),
  "show": Command(
    "inspection:show_config",
    "the resolved config; with --sharding [--devices=N] where its parameters lie",
    (*_CONFIG_FLAGS, "format", "sharding", "devices"),
  ),
  "diff": Command(
    "inspection:diff_configs",
    "the fields in which two experiments, runs or files differ",
    ("load",),
    "A B",
    (2,),
  ),
  "why": Command(
    "inspection:explain_value",
    "a field's value, who set it, and the values before it",
    _CONFIG_FLAGS,
    "PATH",
    (1,),
  ),
  "data": Command(
    "running:preview_data",
    "the first packed rows, decoded: --num_rows=N; --cache: only the token store",
    (*_CONFIG_FLAGS, "num_rows", "cache", "cache_dir"),
  ),
  "plan": Command(
    "planning:plan_run",
    "bytes, FLOPs, time, collectives on --topology=v5p:4x4x4, h100:8x8, cpu:8\n"
    "[--kernels --mfu --tokens --price --json]; --search [--minutes --to]: mesh",
    (*_CONFIG_FLAGS, *_PLAN_FLAGS),
  ),
  "import": Command(
    "interchange:import_model",
    "makes a run of a Hugging Face folder or LWM file: --from=PATH --workdir=DIR",
    (*_CONFIG_FLAGS, "from", "workdir", "scan_axis"),
  ),
  "export": Command(
    "interchange:export_model",
    "makes such a folder of a run: --workdir=DIR --to=FOLDER [--dtype=bfloat16]",
    ("load", "workdir", "to", "step", "dtype"),
  ),
  "ckpt": Command(
    "checkpoints:inspect_checkpoints",
    "ls, show, verify RUN, or diff A B: checkpoints without the model",
    (),
    "VERB RUN...",
    (0, 1, 2, 3),
  ),
  "doctor": Command(
    "doctor:doctor",
    "what is installed, what is here, whether it trains, what to mend [--json]",
    ("json",),
  ),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns the exit code."""
  logging.set_verbosity(logging.WARNING)
  try:
    return _run(sys.argv if argv is None else argv)
  except UserError as error:
    for line in error_lines(error):
      print(f"runner: error: {line}", file=sys.stderr)
    return 2
  except Diverged as error:
    print(f"runner: error: {error}", file=sys.stderr)
    return 1
  except BrokenPipeError:  # `runner list | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except KeyboardInterrupt as error:
    return error.exit_code if isinstance(error, Interrupted) else 130


def _run(argv: Sequence[str]) -> int:
  values, overrides = define_flags()
  name, *arguments = _parse(values, overrides, argv)
  if values["help"].value or name == HELP:
    print(_help(values), end="")
    return 0
  if values["version"].value:
    print(versions())
    return 0
  command = COMMANDS[name]
  _check_arguments(name, arguments, values, overrides)
  _check_flags(name, values)
  chosen: dict[str, Any] = {}
  for flag in command.flags:
    if flag not in VERBS:
      value = values[flag].value
      field = "source" if flag == "from" else flag  # `from` is a keyword
      chosen[field] = tuple(value) if isinstance(value, list) else value
  invocation = Invocation(arguments=tuple(arguments), overrides=tuple(overrides), **chosen)
  invocation.prepare()
  code = command.run(invocation)
  sys.stdout.flush()
  return code


def _parse(
  values: flags.FlagValues, overrides: Sequence[Override], argv: Sequence[str]
) -> list[str]:
  """Returns the command and its arguments; puts flags into `values`."""
  try:
    _, *positional = values(list(argv))
  except flags.UnrecognizedFlagError as error:
    cure = flag_cure(error.flagname, argv, values, values["exp"].value)
    raise UserError(f"there is no flag --{error.flagname}: {cure}") from error
  except flags.Error as error:
    raise UserError(f"{error}") from error
  name = positional[0] if positional else DEFAULT_COMMAND
  if name not in (*COMMANDS, HELP):
    cure = _flag_meant(name, values, overrides) or command_cure(name, COMMANDS)
    raise UserError(f"there is no command {name!r}: {cure}")
  return [name, *positional[1:]]


def _flag_meant(
  word: str, values: flags.FlagValues, overrides: Sequence[Override]
) -> str | None:
  """A hint how to write a stray word as a flag; None if there is none."""
  incomplete = [o for o in overrides if o.verb == "set" and "=" not in o.text]
  if incomplete:  # --set num_steps 3
    return f"write {incomplete[-1]}={word}"
  if "=" in word:
    return f"write --{word}" if word.partition("=")[0] in values else f"write --set={word}"
  if word.endswith((".json", ".yaml", ".yml")):
    return f"write --config={word}"
  return f"write --exp={word}" if re.fullmatch(r"\w+\.\w+", word) else None


def _check_arguments(
  name: str,
  arguments: Sequence[str],
  values: flags.FlagValues,
  overrides: Sequence[Override],
) -> None:
  """Raises UserError unless the command takes this number of arguments."""
  command = COMMANDS[name]
  if len(arguments) in command.num_arguments:
    return
  stray = f", got {' '.join(arguments)}" if arguments else ""
  surplus = arguments[max(command.num_arguments) :]
  cure = _flag_meant(surplus[0], values, overrides) if surplus else None
  if surplus and cure == f"write --exp={surplus[0]}" and "exp" not in command.flags:
    cure = f"write --workdir=runs/{surplus[0]}"
  if surplus and cure is None and "prompt" in command.flags:
    cure = f"write --prompt={shlex.quote(' '.join(surplus))}"
  usage = f"runner {name} {command.arguments}".rstrip()
  raise UserError(
    f"the command is written `{usage}` and flags{stray}{f'; {cure}' if cure else ''}"
  )


def _check_flags(name: str, values: flags.FlagValues) -> None:
  """Raises UserError for a flag that the command ignores, or that is wrongly repeated."""
  for flag in values:
    if values[flag].present > 1 and flag not in _REPEATABLE:
      raise UserError(f"--{flag} is given {values[flag].present} times; give it once")
    if values[flag].present and flag not in (*COMMANDS[name].flags, "help", "h"):
      means = [other for other, spec in COMMANDS.items() if flag in spec.flags]
      own = f"; that of the run is --set=seed={values[flag].value}" if flag == "seed" else ""
      raise UserError(
        f"--{flag} means nothing to `runner {name}`; it is for {', '.join(means)}{own}"
      )


def _help(values: flags.FlagValues) -> str:
  lines = [
    "runner [COMMAND] --exp=NAME [--set=PATH=VALUE]... [--workdir=DIR]...",
    "",
    "Commands (train when left out):",
  ]
  for name, command in COMMANDS.items():
    summary = command.summary.replace("\n", "\n" + " " * 20)
    lines.append(f"  {f'{name} {command.arguments}':18}{summary}")
  lines += ["", "Flags:"]
  for name in (
    "exp",
    *VERBS,
    *(n for n in values if n not in ("exp", "help", "h", "version", *VERBS)),
  ):
    users = [other for other, spec in COMMANDS.items() if name in spec.flags]
    if users and all(f"--{name}" in COMMANDS[user].summary for user in users):
      continue  # the summary explains it
    only = f" [{', '.join(users)}]" if len(users) < 4 else ""
    text = (values[name].help or "").partition(";\n")[0]  # without absl's own addition
    lines.append(f"  {f'--{name}':18}{text}{only}")
  lines += [
    "",
    "VALUE is a Python literal, a bare word where a text, an enum or a dtype is expected,",
    "or @name(argument=value), such as --set=optimizer=@sgdm(learning_rate=1.0).",
  ]
  return "\n".join(lines) + "\n"
