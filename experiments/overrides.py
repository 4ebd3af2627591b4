"""Applies overrides in the order given: all of them or none.

Every override is parsed, resolved and type-checked on a copy of the config. If one fails, the
copy is dropped and all errors are reported, each with its argument. For each field that
changed, the override that changed it is recorded.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fiddle as fdl

from experiments.edits import append_value, find, set_value, unset
from experiments.fiddlers import apply_fiddler
from experiments.gin_flags import bind, statements_of
from experiments.override_arguments import GIN_VERBS, Override, OverrideErrors
from experiments.override_files import OverrideFile, read_override_file
from experiments.paths import parse_path, split_assignment
from experiments.value_syntax import from_file, parse_text, parse_value
from experiments.values import takes_text_alone
from layers.errors import UserError
from runners.configs.fields import REQUIRED
from runners.configs.tree import Path, copy_config, flatten, path_text, walk


@dataclasses.dataclass(frozen=True)
class Change:
  """A field that an override changed; a value is None if the field was absent then."""

  path: str
  before: str | None
  after: str | None
  who: str


@dataclasses.dataclass(frozen=True)
class Applied:
  """The target of one argument, or one line of a file, and the fields it changed."""

  who: str
  path: Path | None  # None: anywhere (a fiddler); (): the whole config
  appends: bool
  changed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The new config, the changes and their authors, and warnings for the user."""

  config: fdl.Config
  changes: tuple[Change, ...] = ()
  warnings: tuple[str, ...] = ()
  applied: tuple[Applied, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Edit:
  """A single edit: an argument, or one line of a file."""

  who: str
  run: Callable[[fdl.Config], tuple[fdl.Config, Path | None]]  # None: anywhere (a fiddler)
  appends: bool = False
  line: str = ""  # a file's line, for its error


def apply_overrides(
  config: fdl.Config, overrides: Sequence[Override], *, complete: bool = True
) -> Outcome:
  """Applies `overrides` to a copy of `config`, or raises OverrideErrors.

  Without `complete`, a required field may still lack a value, for a later call to give.
  """
  transaction = _Transaction(config)
  failed: list[str] = []
  for override in sorted(overrides, key=_place):
    if any(override.text.startswith((f"{path}.", f"{path}[")) for path in failed):
      continue  # it would fail only because an override it builds on failed
    if override.verb in GIN_VERBS and transaction.errors:
      continue  # likewise
    try:
      for edit in _edits(override):
        transaction.apply(edit)
    except UserError as error:
      transaction.errors.append(f"{override}: {error}")
      if override.verb in ("set", "sweep"):
        failed.append(override.text.partition("=")[0].removesuffix("+"))
  return transaction.outcome(complete)


class _Transaction:
  """The config being changed, with its changes, errors and warnings so far."""

  def __init__(self, config: fdl.Config):
    self.errors: list[str] = []
    self._original = config
    self._config = copy_config(config)
    self._changes: list[Change] = []
    self._applied: list[Applied] = []
    self._warnings: list[str] = []
    self._set_by: dict[Path, str] = {}

  def apply(self, edit: _Edit) -> None:
    try:
      self._config, path = edit.run(self._config)
    except UserError as error:
      raise UserError(f"{edit.line}: {error}" if edit.line else str(error)) from error
    before, after = self._values, flatten(self._config, expand_shared=True)
    self._values = after
    paths = [*after, *(path for path in before if path not in after)]
    changed = [name for name in paths if before.get(name) != after.get(name)]
    if path is not None and path_text(path) in after and path_text(path) not in changed:
      changed.append(path_text(path))  # the value is the same, but now somebody's choice
    for name in changed:
      self._changes.append(Change(name, before.get(name), after.get(name), edit.who))
    self._applied.append(Applied(edit.who, path, edit.appends, tuple(changed)))
    if not edit.appends:
      self._warn(edit.who, path, changed)
    if path is not None:
      self._set_by[path] = edit.who

  @functools.cached_property
  def _values(self) -> dict[str, str]:
    """Path -> value, of the config as the last edit left it; most bad edits need none."""
    return flatten(self._original, expand_shared=True)

  def _warn(self, who: str, path: Path | None, changed: list[str]) -> None:
    """Adds a warning if an override undoes an earlier one."""
    for earlier, by in list(self._set_by.items()):
      name = path_text(earlier)
      if earlier == path:
        self._warnings.append(f"{name} is set twice: {who} wins over {by}")
      elif path is not None and earlier[: len(path)] == path:
        if name not in changed:
          continue  # the new value took it over
        whole = path_text(path) or "the whole config"
        self._warnings.append(f"{who} replaces {whole}, so {by} before it has no effect")
      elif path is None and name in changed:
        self._warnings.append(f"{who} changes {name}, which {by} had set")
      else:
        continue
      del self._set_by[earlier]

  def _incomplete(self) -> Iterator[str]:
    """Errors for required fields that an override left without a value, as `@sgdm()` does.

    Checked after all overrides, since a later one may give the value.
    """
    for path, value, _ in walk(self._config):
      name = path_text(path)
      who = next((c.who for c in reversed(self._changes) if c.path == name), None)
      if value is not REQUIRED or who is None:
        continue
      yield f"{who}: {name} has no default and no value; add --set={name}=VALUE"

  def outcome(self, complete: bool) -> Outcome:
    if complete and not self.errors:
      self.errors += self._incomplete()
    if self.errors:
      raise OverrideErrors(self.errors)
    return Outcome(
      self._config, tuple(self._changes), tuple(self._warnings), tuple(self._applied)
    )


def _place(override: Override) -> int:
  """Sort key: gin comes last, for the data that other overrides chose, its files first."""
  return 1 + GIN_VERBS.index(override.verb) if override.verb in GIN_VERBS else 0


def _edits(override: Override) -> Iterator[_Edit]:
  who = str(override)
  match override.verb:
    case "set" | "sweep":  # one value of a sweep
      path, verb, text = split_assignment(override.text)
      yield _Edit(who, _text_setter(path, text, verb == "+="), appends=verb == "+=")
    case "unset":
      yield _Edit(who, _unsetter(override.text))
    case "fiddler":
      yield _Edit(who, _fiddle(override.text))
    case "config":
      yield from _file_edits(read_override_file(override.text))
    case "gin_file" | "gin_bindings":
      statements = statements_of(override.verb, override.text)
      yield _Edit(who, lambda config: (bind(config, statements), None), appends=True)
    case verb:
      raise ValueError(f"no verb {verb!r}")


def _file_edits(file: OverrideFile) -> Iterator[_Edit]:
  def edit(line: str, run, appends: bool = False) -> _Edit:
    return _Edit(f"{file.source}: {line}", run, appends, line)

  if file.config is not None:
    stored = file.config
    yield _Edit(file.source, lambda _: (stored, ()))
  for call in file.fiddlers:
    yield edit(f"fiddler {call}", _fiddle(call))
  for path in file.unset:
    yield edit(f"unset {path}", _unsetter(path))
  for key, value in file.set.items():
    path, appends = key.removesuffix("+"), key.endswith("+")
    yield edit(f"set {key}", _setter(path, from_file(value), appends), appends)


def _setter(path: str, value: Any, appends: bool):
  put = append_value if appends else set_value
  return lambda config: (config, put(config, parse_path(path), value))


def _text_setter(path: str, text: str, appends: bool):
  """Like `_setter`, from typed text; a field that takes only text gets it unparsed."""

  def run(config: fdl.Config) -> tuple[fdl.Config, Path]:
    where = parse_path(path)
    is_text = not appends and takes_text_alone(find(config, where, new_key=True).annotation)
    value = parse_text(text) if is_text else parse_value(text)
    return _setter(path, value, appends)(config)

  return run


def _unsetter(path: str):
  return lambda config: (config, unset(config, parse_path(path.strip())))


def _fiddle(call: str):
  return lambda config: (apply_fiddler(config, call), None)
