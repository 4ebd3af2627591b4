"""Files given with `--config`: a run's config.json, or overrides written as YAML or JSON.

  exp: gpt2.Nano
  fiddlers: [tiny(width=32)]
  unset: [model.dropout]
  set: {model.num_layers: 3, optimizer: "@sgdm(learning_rate=0.1)", callbacks+: ["@nan_stop()"]}

In a file, fiddlers are applied first, then unset, then set, regardless of their order.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import fiddle as fdl

from experiments.plain_yaml import parse_yaml
from input_pipelines.foreign_json import parse_json
from layers.errors import UserError, shown
from layers.suggestions import did_you_mean
from runners.checkpoints.origin import with_defaults
from runners.configs.files import JSON_NAME, check_experiment_name, from_json, read_text
from runners.configs.value_limits import MAX_CONFIG_BYTES, MAX_OVERRIDE_BYTES, check_values

_KEYS = ("exp", "set", "unset", "fiddlers")


@dataclasses.dataclass(frozen=True)
class OverrideFile:
  """The overrides in a file.

  For a run's config.json, `config` is the whole config with the defaults of its time, and
  `defaults_then` (path -> value as text) lists the defaults that have changed since.
  """

  source: str
  exp: str | None = None
  config: fdl.Config | None = None
  defaults_then: Mapping[str, str] = dataclasses.field(default_factory=dict)
  set: dict[str, Any] = dataclasses.field(default_factory=dict)
  unset: tuple[str, ...] = ()
  fiddlers: tuple[str, ...] = ()


def read_override_file(path: str) -> OverrideFile:
  """Reads and checks the form of a file; its paths and values are checked when applied."""
  file = pathlib.Path(path)
  if os.path.isdir(file):  # which has no errors of its own
    file = file / JSON_NAME
  is_json = file.suffix == ".json"
  text = read_text(file, MAX_CONFIG_BYTES if is_json else MAX_OVERRIDE_BYTES)
  content = parse_json(text, str(file)) if is_json else parse_yaml(text, str(file))
  if not isinstance(content, dict):
    raise UserError(f"{file} holds no mapping: it needs {', '.join(_KEYS)}, or a run's config")
  if "config" in content:
    recorded = with_defaults(from_json(text, str(file)), file)
    config, then = recorded.replayed()
    return OverrideFile(str(file), exp=recorded.exp, config=config, defaults_then=then)
  _check(content, file)
  exp = _checked(content, "exp", str, file)
  if exp is not None:
    check_experiment_name(exp, str(file))
  return OverrideFile(
    str(file),
    exp=exp,
    set={str(path): value for path, value in _checked(content, "set", dict, file).items()},
    unset=_texts(content, "unset", file),
    fiddlers=_texts(content, "fiddlers", file),
  )


def _check(content: dict[Any, Any], file: pathlib.Path) -> None:
  """Raises UserError for unknown keys, and for values that no field can hold."""
  try:
    check_values(content)
  except UserError as error:
    raise UserError(f"{file}: {error}") from error
  for key in content:
    if key not in _KEYS:
      raise UserError(
        f"{file} has an unknown key {shown(key)}: {did_you_mean(str(key), _KEYS)}"
      )


def _checked(content: dict[str, Any], key: str, kind: type, file: pathlib.Path) -> Any:
  value = content.get(key)
  if value is None:
    return None if kind is str else kind()
  if not isinstance(value, kind):
    raise UserError(
      f"{file}: {key!r} must be a {kind.__name__}, and is a {type(value).__name__}"
    )
  return value


def _texts(content: dict[str, Any], key: str, file: pathlib.Path) -> tuple[str, ...]:
  values = _checked(content, key, list, file)
  for value in values:
    if not isinstance(value, str):
      kind = type(value).__name__
      raise UserError(f"{file}: {key!r} must be a list of texts, and holds a {kind}")
  return tuple(values)
