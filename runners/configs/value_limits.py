"""Limits on the size and depth of a config's values, since a stranger may have written it.

A few lines of YAML or JSON that refer to each other can expand beyond memory, and a number can
have more digits than Python prints. No real run comes near these limits.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import fiddle as fdl

from layers.errors import UserError

MAX_CONFIG_BYTES = 2**24  # of a config.json; the experiments' take 60 to 90 KB
MAX_OVERRIDE_BYTES = 2**17  # of an override file; the YAML parser takes 5 s for so much
MAX_VALUES = 100_000  # in a config; a shared value counts at every reference
MAX_DEPTH = 64  # of nested values
MAX_DEFAULTS = 10_000  # kept in a config.json; the experiments' have 50 to 150
MAX_DEFAULT_TEXT = 10_000  # characters of one of them that is read back; they have 300 at most
MAX_BITS = 64  # of a whole number; fields have narrower ranges of their own


def check_plain(value: Any) -> None:
  """Raises UserError for a number or text that no field can hold, whatever its type."""
  if type(value) is int and value.bit_length() > MAX_BITS:
    raise UserError(f"a whole number has {value.bit_length()} bits, and at most {MAX_BITS} do")
  if isinstance(value, str):
    if "\0" in value:
      raise UserError("a text has a NUL character in it")
    if any("\ud800" <= character <= "\udfff" for character in value):
      raise UserError("a text is not valid Unicode")


def check_values(root: Any, children: Callable[[Any], Iterable[Any]] | None = None) -> None:
  """Raises UserError if `root` holds too many values, nests too deep, or contains itself.

  Args:
    root: the value to check.
    children: value -> values directly below it; None: for lists, dicts and config nodes.
  """
  below = children or values_below
  known: dict[int, tuple[int, int]] = {}  # id(value) -> (number of values, depth)

  def measure(value: Any, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
      raise UserError(f"values are nested in each other more than {MAX_DEPTH} times")
    if id(value) in known:
      return known[id(value)]
    size, height = 1, 0
    for child in below(value):
      child_size, child_height = measure(child, depth + 1)
      size, height = size + child_size, max(height, child_height + 1)
    if size > MAX_VALUES or height > MAX_DEPTH:
      what = (
        f"more than {MAX_VALUES:,} values" if size > MAX_VALUES else "values nested too deep"
      )
      raise UserError(f"there are {what}, those that are referred to counted each time")
    known[id(value)] = size, height
    return size, height

  measure(root, 0)


def values_below(value: Any) -> Iterable[Any]:
  """The values directly below a value of a config; a plain value is checked here instead."""
  if isinstance(value, fdl.Buildable):
    return value.__arguments__.values()
  if isinstance(value, Mapping):
    return [*value.keys(), *value.values()]
  if isinstance(value, list | tuple | set | frozenset):
    return value
  check_plain(value)
  return ()
