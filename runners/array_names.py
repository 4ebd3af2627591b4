"""The names of a state's arrays, made from the keys on their paths: params/head/kernel."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from layers.errors import UserError


def named_arrays(tree: Any) -> Iterator[tuple[str, Any]]:
  """("a/b", array) for every array, or description of one, in a tree.

  A state gives the same names as the dicts and lists in which Orbax describes it.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield array_name(path), leaf


def array_name(path: Any) -> str:
  """The name of the array at a key path of a tree."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def check_patterns(field: str, patterns: Sequence[str]) -> None:
  """Raises UserError unless a config's `field` is a list of regular expressions."""
  if isinstance(patterns, str):  # each of its characters would be a pattern
    raise UserError(f"{field}={patterns!r}: write a list, [{patterns!r}]")
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise UserError(f"{field}: {pattern!r} is no regular expression: {error}") from error
