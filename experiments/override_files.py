"""Files given with `--config`: a run's config.json, or overrides written as YAML or JSON.

  exp: gpt2.Nano
  fiddlers: [tiny(width=32)]
  unset: [model.dropout]
  set: {model.num_layers: 3, optimizer: "@sgdm(learning_rate=0.1)", callbacks+: ["@nan_stop()"]}

Within a file fiddlers come first, then unset, then set, whatever their order in it.
"""

import dataclasses
import json
import pathlib
from typing import Any

import fiddle as fdl
import yaml

from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.config_files import JSON_NAME, from_json, read_text

_KEYS = ("exp", "set", "unset", "fiddlers")


@dataclasses.dataclass(frozen=True)
class OverrideFile:
  """What a file asks for. `config` is the whole config when the file is a run's config.json."""

  source: str
  exp: str | None = None
  config: fdl.Config | None = None
  set: dict[str, Any] = dataclasses.field(default_factory=dict)
  unset: tuple[str, ...] = ()
  fiddlers: tuple[str, ...] = ()


def read_override_file(path: str) -> OverrideFile:
  """Reads and checks the form of a file; its paths and values are checked when applied."""
  file = pathlib.Path(path)
  if file.is_dir():
    file = file / JSON_NAME
  text = read_text(file)
  content = _parse(text, file)
  if not isinstance(content, dict):
    raise UserError(f"{file} holds no mapping: it needs {', '.join(_KEYS)}, or a run's config")
  if "config" in content:
    stored = from_json(text, str(file))
    return OverrideFile(str(file), exp=stored.exp, config=stored.config)
  for key in content:
    if key not in _KEYS:
      raise UserError(f"{file} has an unknown key {key!r}: {did_you_mean(str(key), _KEYS)}")
  return OverrideFile(
    str(file),
    exp=_checked(content, "exp", str, file),
    set={str(path): value for path, value in _checked(content, "set", dict, file).items()},
    unset=_texts(content, "unset", file),
    fiddlers=_texts(content, "fiddlers", file),
  )


def _parse(text: str, file: pathlib.Path) -> Any:
  try:
    return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
  except yaml.MarkedYAMLError as error:
    line = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
    raise UserError(f"{file} is not YAML: {error.problem}{line}") from error
  except (yaml.YAMLError, ValueError) as error:
    kind = "JSON" if file.suffix == ".json" else "YAML"
    raise UserError(f"{file} is not {kind}: {str(error).splitlines()[0]}") from error


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
      raise UserError(f"{file}: {key!r} must be a list of texts, and holds {value!r}")
  return tuple(values)
