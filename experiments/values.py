"""Converts a parsed value to the annotation of its field, or says in an error what would fit.

It is strict where Python is lax: `1` is no bool, `2.5` no int, `3` no str. It converts only
without loss: an int to a float, a list to a tuple.
"""

import collections.abc
import enum
import types
import typing
from typing import Any

import fiddle as fdl
import numpy as np

from experiments.references import find_reference, known_references
from experiments.value_syntax import FileText, Reference, Word, parse_value
from layers import dtypes
from layers.errors import UserError, short
from layers.ranges import Range
from layers.suggestions import did_you_mean, nearest
from runners.configs.fields import Field, accepts_any_name, fields, produced_type
from runners.configs.tree import format_value

_SEQUENCES = (
  list,
  collections.abc.Sequence,
  collections.abc.Iterable,
  collections.abc.Collection,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN = (bool, int, float, str, bytes)
_UNIONS = (typing.Union, types.UnionType)


class _Mismatch(Exception):
  """The value does not fit; `hint` is the cure, if known."""

  def __init__(self, hint: str = ""):
    super().__init__(hint)
    self.hint = hint


def typed(value: Any, annotation: Any, current: Any = None) -> Any:
  """`value`, from `parse_value` or `from_file`, converted to the annotation.

  `current` is the field's present value. If the annotation is Any, it decides whether `@name`
  means the function itself or a config of it, and keeps a config from becoming a number.
  """
  try:
    return _fit(value, annotation, current)
  except _Mismatch as mismatch:
    hint = f"; {mismatch.hint}" if mismatch.hint else ""
    got = short(_as_typed(value))
    raise UserError(f"expected {expected(annotation)}, got {got}{hint}") from None


def takes_text_alone(annotation: Any) -> bool:
  """Whether only a string, or a string and None, fits."""
  if typing.get_origin(annotation) in _UNIONS:
    members = set(typing.get_args(annotation)) - {types.NoneType}
    return members == {str}
  return annotation is str


def expected(annotation: Any) -> str:
  """An annotation in the words of an error message."""
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if annotation is dtypes.DType:
    return f"a dtype ({', '.join(dtypes.NAMES)})"
  if annotation is None or annotation is types.NoneType:
    return "None"
  if _is_open(annotation):
    return "a literal, a quoted text or @name(...)"
  if origin is typing.Annotated:
    ranges = [f" ({extra})" for extra in arguments[1:] if isinstance(extra, Range)]
    return expected(arguments[0]) + "".join(ranges)
  if origin in _UNIONS:
    return " or ".join(dict.fromkeys(map(expected, arguments)))
  if origin is typing.Literal:
    return " or ".join(map(repr, arguments))
  if _is_callable_type(annotation):
    return "a callable (@name)"
  if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
    return f"a {annotation.__name__} ({', '.join(annotation.__members__)})"
  if origin is not None and arguments:
    inner = ", ".join("..." if a is Ellipsis else expected(a) for a in arguments)
    return f"{getattr(origin, '__name__', origin)}[{inner}]"
  if isinstance(annotation, type):
    known = annotation.__module__ == "builtins" or annotation in (*_SEQUENCES, *_MAPPINGS)
    name = annotation.__name__.rpartition(".")[2]
    return name if known else f"{name} (@name(...))"
  if isinstance(annotation, typing.NewType):
    return expected(annotation.__supertype__)
  return str(annotation)


def _as_typed(value: Any) -> str:
  """The value as the user wrote it, if known, also within a list or tuple."""
  if isinstance(value, Word | Reference):
    return value.text
  if isinstance(value, list | tuple):
    opening, closing = "[]" if isinstance(value, list) else "()"
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return f"{opening}{', '.join(map(_as_typed, value))}{comma}{closing}"
  return repr(value.text) if isinstance(value, FileText) else format_value(value)


def _fit(value: Any, annotation: Any, current: Any) -> Any:
  origin = typing.get_origin(annotation)
  if origin in (typing.Annotated, typing.Final):
    kind, *extras = typing.get_args(annotation)
    return _in_range(_fit(value, kind, current), extras)
  if isinstance(value, FileText):
    return _fit_file_text(value.text, annotation, current)
  if isinstance(value, Reference):
    return _fit_reference(value, annotation, current)
  if origin in _UNIONS:
    return _fit_union(value, typing.get_args(annotation), current)
  if origin is typing.Literal:
    return _fit_choice(value, {str(choice): choice for choice in typing.get_args(annotation)})
  if annotation is dtypes.DType:
    return _fit_choice(value, {name: name for name in dtypes.NAMES})
  if isinstance(annotation, typing.NewType):
    return _fit(value, annotation.__supertype__, current)
  if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
    return _fit_enum(value, annotation)
  if (container := _container_of(annotation)) is not None:
    return _fit_container(value, container, typing.get_args(annotation))
  if _is_open(annotation):
    return _fit_anything(value, annotation, current)
  return _fit_plain(value, origin or annotation)


def _in_range(value: Any, extras: list[Any]) -> Any:
  ranges = [extra for extra in extras if isinstance(extra, Range)]
  if isinstance(value, int | float) and not all(one.holds(value) for one in ranges):
    raise _Mismatch
  return value


def _fit_plain(value: Any, annotation: Any) -> Any:
  """Fits bool, int, float, str, None, and classes without literals."""
  if annotation is None or annotation is types.NoneType:
    if value is None:
      return None
    raise _Mismatch
  if isinstance(value, Word):
    if annotation is str:
      return value.text
    close = {"true": "True", "false": "False", "none": "None", "null": "None"}
    cure = close.get(value.text.lower()) or _reference_meant(value, annotation)
    raise _Mismatch(f"did you mean {cure}?" if cure else "")
  if annotation is float and type(value) is int:
    return float(value)
  if type(value) is annotation:
    return value
  if annotation is int and type(value) is float and value.is_integer():
    raise _Mismatch(f"write {int(value)}")
  if annotation is str and isinstance(value, int | float):
    raise _Mismatch(f"for a text write {str(value)!r}, quotes included")
  raise _Mismatch


def _reference_meant(word: Word, annotation: Any) -> str | None:
  """The reference meant by `sgdm` or `sgdm(learning_rate=1)` without @; None if none fits."""
  name = word.text.partition("(")[0]
  if isinstance(annotation, type) and annotation in _PLAIN:
    return None
  if name not in known_references():
    close = nearest(name, known_references(), 3, 0.75)
    fitting = [f"@{other}" for other in close if _may_be(other, annotation)]
    return " or ".join(fitting) or None
  called = "(" in word.text or _is_callable_type(annotation)
  return f"@{word.text}" if called else f"@{name}(...)"


def _may_be(name: str, annotation: Any) -> bool:
  target = find_reference(name)
  function = _is_callable_type(annotation) and not _makes_callables(target)
  return function or _allows(annotation, produced_type(target))


def _fit_union(value: Any, members: tuple[Any, ...], current: Any) -> Any:
  """Fits the member that takes the value unchanged, else the first that converts it."""
  exact = [member for member in members if member is type(value)]
  last = [member for member in members if _is_open(member)]
  hints = []
  for member in [*exact, *(m for m in members if m not in exact and m not in last), *last]:
    try:
      return _fit(value, member, current)
    except _Mismatch as mismatch:
      hints.append(mismatch.hint)
  raise _Mismatch(next(filter(None, hints), ""))


def _fit_choice(value: Any, choices: dict[str, Any]) -> Any:
  if isinstance(value, Word):
    if value.text in choices:
      return choices[value.text]
    raise _misspelt(value.text.rpartition(".")[2], choices)
  for choice in choices.values():
    if choice == value and type(choice) is type(value):
      return choice
  raise _misspelt(value, choices)


def _fit_enum(value: Any, annotation: type[enum.Enum]) -> enum.Enum:
  """Fits a member by its name (bare, quoted or `Class.MEMBER`) or by its value."""
  text = value.text if isinstance(value, Word) else value
  if isinstance(text, str):
    name = text.removeprefix(f"{annotation.__name__}.")
    if name in annotation.__members__:
      return annotation[name]
  for member in annotation:
    if member.value == text and type(member.value) is type(text):
      return member
  raise _misspelt(text, annotation.__members__)


def _misspelt(text: Any, options: collections.abc.Iterable[str]) -> _Mismatch:
  close = nearest(text, options, count=2) if isinstance(text, str) else []
  return _Mismatch(f"did you mean {' or '.join(close)}?" if close else "")


def _fit_anything(value: Any, annotation: Any, current: Any) -> Any:
  """Without an annotation: any literal fits, but no bare word, which may be a slip."""
  if isinstance(value, Word):
    if isinstance(current, fdl.Buildable) and (cure := _reference_meant(value, annotation)):
      raise _Mismatch(f"did you mean {cure}?")
    raise _Mismatch(f"for a text write {value.text!r}, quotes included")
  if isinstance(current, fdl.Buildable) and value is not None:
    raise _Mismatch(f"it holds {format_value(current)}; a config is replaced by @name(...)")
  if isinstance(value, dict):
    return {_fit(key, Any, None): _fit(item, Any, None) for key, item in value.items()}
  if isinstance(value, list | tuple | set):
    return type(value)(_fit(item, Any, None) for item in value)
  return value


def _container_of(annotation: Any) -> type | None:
  """list, tuple, dict or set for any annotation of one; None for other annotations."""
  kind = typing.get_origin(annotation) or annotation
  if kind in _SEQUENCES:
    return list
  if kind in _MAPPINGS:
    return dict
  return {tuple: tuple, set: set, frozenset: frozenset}.get(kind)


def _fit_container(value: Any, kind: type, items: tuple[Any, ...]) -> Any:
  if kind is dict:
    if not isinstance(value, dict):
      raise _Mismatch
    key_type, item_type = items or (Any, Any)
    return {
      _fit(
        key, str if key_type is Any and isinstance(key, FileText | Word) else key_type, None
      ): _fit(item, item_type, None)
      for key, item in value.items()
    }
  if not isinstance(value, list | tuple | set):
    cure = "" if isinstance(value, str | Word | dict) else f"write [{format_value(value)}]"
    raise _Mismatch(cure if kind is not tuple else cure.replace("[", "(").replace("]", ",)"))
  if kind is tuple and items and items[-1] is not Ellipsis:
    if len(items) != len(value):
      raise _Mismatch(f"it has {len(value)} items")
    return tuple(_fit(v, t, None) for v, t in zip(value, items, strict=True))
  item_type = items[0] if items else Any
  return kind(_fit(item, item_type, None) for item in value)


def _fit_file_text(text: str, annotation: Any, current: Any) -> Any:
  """Fits a string from a file as text if text fits, else as the text of a value."""
  if text.startswith("@"):
    return _fit(parse_value(text), annotation, current)
  try:
    return _fit(text, annotation, current)
  except _Mismatch:
    return _fit(parse_value(text), annotation, current)


def _fit_reference(reference: Reference, annotation: Any, current: Any) -> Any:
  target = find_reference(reference.name)
  bare = reference.arguments is None and not _makes_callables(target)
  if bare and _wants_callable(annotation, current):
    return target
  known = fields(target)
  arguments = {}
  for name, value in reference.arguments.items() if reference.arguments else ():
    if name not in known and not accepts_any_name(target):
      raise UserError(f"@{reference.name} has no field {name!r}: {did_you_mean(name, known)}")
    field = known.get(name, Field(name))
    try:
      arguments[name] = typed(value, field.annotation, field.default)
    except UserError as error:
      raise UserError(f"@{reference.name}, {name}: {error}") from error
  produced = produced_type(target)
  if not _allows(annotation, produced):
    raise _Mismatch(f"@{reference.name}() gives {getattr(produced, '__name__', produced)}")
  return fdl.Config(target, **arguments)


def _makes_callables(target: Any) -> bool:
  """Whether calling `target` gives a callable: a class with `__call__`, such as a core with its
  block sizes, or a function annotated to return a callable, such as a learning-rate schedule.
  """
  if isinstance(target, type):
    return any("__call__" in vars(base) for base in target.__mro__)
  return _is_callable_type(produced_type(target))


def _wants_callable(annotation: Any, current: Any) -> bool:
  if typing.get_origin(annotation) in _UNIONS:
    return any(_wants_callable(m, current) for m in typing.get_args(annotation) if m is not Any)
  if _is_open(annotation):
    return callable(current) and not isinstance(current, fdl.Buildable)
  return _is_callable_type(annotation)


def _is_callable_type(annotation: Any) -> bool:
  kind = typing.get_origin(annotation) or annotation
  if getattr(kind, "_is_protocol", False):
    return "__call__" in vars(kind)
  return kind is collections.abc.Callable or kind is type


def _allows(annotation: Any, produced: Any) -> bool:
  """Whether something of type `produced` may stand where `annotation` is; unsure means yes."""
  origin = typing.get_origin(annotation)
  if origin in _UNIONS:
    return any(_allows(member, produced) for member in typing.get_args(annotation))
  if isinstance(annotation, typing.NewType):
    return _allows(annotation.__supertype__, produced)
  if origin is typing.Annotated:
    return _allows(typing.get_args(annotation)[0], produced)
  if origin is typing.Literal:
    return any(_allows(type(choice), produced) for choice in typing.get_args(annotation))
  kind = origin or annotation
  made = typing.get_origin(produced) or produced
  if (
    _is_open(annotation)
    or _is_open(produced)
    or not isinstance(kind, type)
    or not isinstance(made, type)
  ):
    return True
  if kind is collections.abc.Callable:
    return any("__call__" in vars(base) for base in made.__mro__)
  if getattr(kind, "_is_protocol", False):
    return True
  if made is int and kind is float:
    return True
  return issubclass(made, kind) or issubclass(kind, np.generic)


def _is_open(annotation: Any) -> bool:
  """Whether an annotation says nothing: Any, object, a type variable."""
  return annotation in (Any, object) or isinstance(
    annotation, typing.TypeVar | typing.ForwardRef
  )
