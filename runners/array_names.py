"""The names of a state's arrays, made from the keys on their paths: params/head/kernel."""

from collections.abc import Iterator
from typing import Any

import jax


def named_arrays(tree: Any) -> Iterator[tuple[str, Any]]:
  """("a/b", array) for every array, or description of one, in a tree.

  A state gives the same names as the dicts and lists in which Orbax describes it.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield array_name(path), leaf


def array_name(path: Any) -> str:
  """The name of the array at a key path of a tree."""
  return jax.tree_util.keystr(path, simple=True, separator="/")
