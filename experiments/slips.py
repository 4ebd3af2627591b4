"""Guesses the meaning of an unknown flag: another flag, or a field with its path.

--num_steps=5           --set=num_steps=5
--lr 1e-3               --set=optimizer.learning_rate.peak=1e-3
--experiment=gpt2.Nano  --exp=gpt2.Nano
"""

import difflib
from collections.abc import Iterable, Sequence

from layers.errors import UserError
from layers.suggestions import did_you_mean

EXAMPLE = "gpt2.Nano"  # its fields are searched if no experiment is named

# Other trainers' names for a flag, a command, or a field -> ours.
FLAGS = {
  "experiment": "exp",
  "config_file": "config",
  "config_path": "config",
  "out_dir": "workdir",
  "output": "workdir",
  "output_dir": "workdir",
  "log_dir": "workdir",
  "logdir": "workdir",
  "run_dir": "workdir",
  "override": "set",
  "checkpoint": "step",
}
COMMANDS = {
  "run": "train",
  "fit": "train",
  "start": "train",
  "resume": "train",
  "test": "eval",
  "evaluate": "eval",
  "validate": "eval",
  "ls": "list",
  "config": "show",
  "compare": "diff",
  "sample": "generate",
  "predict": "generate",
  "convert": "export",
  "checkpoint": "ckpt",
  "checkpoints": "ckpt",
}
FIELDS = {
  "lr": "learning_rate",
  "max_lr": "learning_rate",
  "steps": "num_steps",
  "max_steps": "num_steps",
  "max_iters": "num_steps",
  "train_steps": "num_steps",
  "epochs": "num_epochs",
  "max_epochs": "num_epochs",
  "bs": "batch_size",
  "batch": "batch_size",
  "seq_len": "sequence_length",
  "seq_length": "sequence_length",
  "max_length": "sequence_length",
  "block_size": "sequence_length",
  "context_length": "sequence_length",
  "layers": "num_layers",
  "n_layer": "num_layers",
  "n_layers": "num_layers",
  "depth": "num_layers",
  "heads": "num_heads",
  "n_head": "num_heads",
  "n_heads": "num_heads",
  "n_embd": "model_dim",
  "d_model": "model_dim",
  "hidden_size": "model_dim",
  "width": "model_dim",
  "dropout": "dropout_rate",
  "wd": "weight_decay",
  "grad_clip": "clip_norm",
  "clip": "clip_norm",
  "warmup_steps": "warmup",
  "warmup_iters": "warmup",
  "eval_interval": "eval_every",
  "log_interval": "log_every",
  "save_every": "checkpoints.every",
  "save_interval": "checkpoints.every",
  "optim": "optimizer",
  "dataset": "train_data",
  "data_path": "train_data.path",
  "dtype": "compute_dtype",
}


def flag_cure(
  name: str, arguments: Sequence[str], flags: Iterable[str], exp: str | None
) -> str:
  """The end of the error message for an unknown flag `--name`.

  Args:
    name: the flag without its dashes.
    arguments: the whole command line, which has its value.
    flags: all known flags.
    exp: the experiment, if one is named.
  """
  known = list(flags)
  plain = name.strip("-").replace("-", "_").lower()
  value = _value(name, arguments)
  flag = plain if plain in known else FLAGS.get(plain)
  if flag is not None:
    return f"write --{flag}{value}"
  near = _nearest(plain, known)
  if near is not None and _likeness(plain, near) > 0.9:
    return f"did you mean --{near}?"
  paths = _paths(exp)
  wanted = FIELDS.get(plain, plain)
  names = {path.rpartition(".")[2]: path for path in sorted(paths, key=_inside, reverse=True)}
  field = wanted if wanted in {*names, *paths} else _nearest(plain, names)
  alike = 1.0 if field == wanted else _likeness(plain, field or "")
  if field is not None and alike > _likeness(plain, near or ""):
    path = field if field in paths else names[field]
    return f"fields of the config are set by their path, --set={_leaf(path, paths)}{value}"
  if near is not None:
    return f"did you mean --{near}?"
  return "`runner help` lists the flags; a field of the config is set with --set=PATH=VALUE"


def command_cure(word: str, commands: Iterable[str]) -> str:
  """The end of the error message for an unknown command."""
  meant = COMMANDS.get(word.lower())
  return f"did you mean {meant}?" if meant else did_you_mean(word, commands, 2)


def field_paths(name: str, paths: Iterable[str]) -> list[str]:
  """Paths of fields called `name` here or by other trainers; for a schedule, of its peak."""
  wanted, known = FIELDS.get(name, name), list(paths)
  found = [path for path in known if f".{path}".endswith(f".{wanted}")]
  return [_leaf(path, known) for path in sorted(found, key=_inside)[:2]]


def _value(name: str, arguments: Sequence[str]) -> str:
  """`=` and the typed value, however it was given; `=VALUE` if there is none."""
  for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
    flag, equals, value = argument.partition("=")
    if argument.startswith("-") and flag.strip("-") == name.strip("-"):
      if equals:
        return f"={value}"
      return f"={after}" if after and not after.startswith("-") else "=VALUE"
  return "=VALUE"


def _paths(exp: str | None) -> list[str]:
  """The paths of all fields of the experiment, or of an example if it is unknown."""
  from experiments import registry
  from runners.configs.tree import flatten

  for name in filter(None, (exp, EXAMPLE)):
    try:
      return list(flatten(registry.find(name).experiment().config()))
    except UserError:  # reported once the flag is right
      continue
  return []


def _inside(path: str) -> int:
  return path.count(".")


def _leaf(path: str, paths: Iterable[str]) -> str:
  """`path`, or its `.peak` if it is a schedule, since that is the number people mean."""
  peak = f"{path}.peak"
  return peak if peak in set(paths) else path


def _nearest(word: str, options: Iterable[str]) -> str | None:
  close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
  return close[0] if close else None


def _likeness(word: str, option: str) -> float:
  return difflib.SequenceMatcher(None, word, option).ratio()
