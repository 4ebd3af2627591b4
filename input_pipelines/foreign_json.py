"""Reads JSON that a stranger may have written, and checks size, depth and types at once.

A reader asks a `Document` for each field by name and type. A wrong field is a UserError of one
line that names the file and the field, so that no other code meets a wrong type.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from input_pipelines.foreign_files import read_bytes
from layers.errors import UserError
from layers.suggestions import did_you_mean

MAX_JSON_BYTES = 2**28  # the largest tokenizer.json in use takes 32 MiB, an index a few MiB

_REQUIRED: Any = object()
_SHOWN = 60  # characters of a wrong value

T = TypeVar("T")


def parse_json(text: str | bytes, source: str) -> Any:
  """The value of a JSON text; `source` names it in errors.

  Raises:
    UserError: it is no JSON, no UTF-8, nested too deep, or has a number too long to read.
  """
  try:
    return json.loads(text)
  except UnicodeDecodeError as error:
    raise UserError(f"{source} is not UTF-8 text (byte {error.start})") from error
  except RecursionError as error:
    raise UserError(f"{source} is nested too deep to be read") from error
  except ValueError as error:
    raise UserError(f"{source} is not JSON: {error}") from error


def read_json(file: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
  """The value in a JSON file of at most `max_bytes`; UserError as for `parse_json`."""
  return parse_json(read_bytes(file, max_bytes), str(file))


def read_document(file: Path, max_bytes: int = MAX_JSON_BYTES) -> "Document":
  """The JSON object in a file; UserError if it holds anything else."""
  return Document.of(read_json(file, max_bytes), str(file))


@dataclasses.dataclass(frozen=True)
class Document:
  """A JSON object whose fields are read by name and type.

  An absent or null field gives the method's default, and without a default is an error. A bool
  is no number, and 3.0 is no whole number.

  Attributes:
    values: the object as parsed.
    source: its name in errors.
  """

  values: Mapping[str, Any]
  source: str

  @classmethod
  def of(cls, value: Any, source: str) -> "Document":
    if not isinstance(value, dict):
      raise UserError(f"{source} is {_kind(value)}, not a JSON object")
    return cls(value, source)

  def __contains__(self, name: str) -> bool:
    """Whether the field is there and not null."""
    return self.values.get(name) is not None

  def whole(
    self, name: str, default: T = _REQUIRED, *, at_least: int = 0, at_most: int = 2**63 - 1
  ) -> int | T:
    """A whole number."""
    is_whole = lambda x: type(x) is int and at_least <= x <= at_most
    upper = f" and at most {at_most:,}" if at_most < 2**63 - 1 else ""
    return self._get(name, default, is_whole, f"a whole number of at least {at_least}{upper}")

  def number(
    self, name: str, default: T = _REQUIRED, *, above: float = -math.inf
  ) -> int | float | T:
    """A finite number: int or float, as written."""
    is_number = lambda x: type(x) in (int, float) and _is_finite(x) and x > above
    return self._get(
      name, default, is_number, f"a number above {above:g}" if above > -math.inf else "a number"
    )

  def flag(self, name: str, default: T = _REQUIRED) -> bool | T:
    """true or false."""
    return self._get(name, default, lambda x: type(x) is bool, "true or false")

  def text(self, name: str, default: T = _REQUIRED) -> str | T:
    return self._get(name, default, lambda x: type(x) is str, "a text")

  def one_of(self, name: str, options: Iterable[str], default: T = _REQUIRED) -> str | T:
    """One of the texts of `options`."""
    value = self.text(name, default)
    options = list(options)
    if value is not default and value not in options:
      cure = did_you_mean(str(value), options)
      raise UserError(f"{self.source}: {name} is {_shown(value)}; {cure}")
    return value

  def list(self, name: str, default: T = _REQUIRED) -> "list[Any] | T":
    return self._get(name, default, lambda x: type(x) is list, "a list")

  def document(self, name: str, default: T = _REQUIRED) -> "Document | T":
    """A JSON object in this one."""
    value = self._get(name, default, lambda x: type(x) is dict, "a JSON object")
    return value if value is default else Document(value, f"{self.source}, {name}")

  def _get(self, name: str, default: Any, is_right: Callable[[Any], bool], wanted: str) -> Any:
    value = self.values.get(name)
    if value is None and default is not _REQUIRED:
      return default
    if value is None and name not in self.values:
      raise UserError(f"{self.source} has no {name!r}; it has to be {wanted}")
    if not is_right(value):
      raise UserError(f"{self.source}: {name} is {_shown(value)}, and has to be {wanted}")
    return value


def _is_finite(number: int | float) -> bool:
  try:
    return math.isfinite(number)
  except OverflowError:  # a whole number of 400 digits
    return False


def _shown(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({_kind(value)})"


def _kind(value: Any) -> str:
  names = {dict: "an object", list: "a list", str: "a text", bool: "a bool", type(None): "null"}
  return names.get(type(value), "a number")
