"""YAML as plain data, within limits: mappings, lists, texts, numbers, booleans and null.

A few lines of aliases can expand beyond memory, and a tag can ask for any type. So the parser's
tree is checked before values are made from it. A date is a text, since no field holds dates.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from layers.errors import UserError, shown
from runners.configs.value_limits import check_values

_TAG = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_RESOLVED = (*_KINDS, "merge")  # `<<: *others` in a mapping


class _Loader(yaml.SafeLoader):
  """PyYAML's safe loader, restricted to the types of JSON."""

  yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag in {f"{_TAG}{kind}" for kind in _KINDS}
  }
  yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag.removeprefix(_TAG) in _RESOLVED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
  }


def parse_yaml(text: str, source: str) -> Any:
  """The value of a YAML text; `source` names it in errors.

  Raises:
    UserError: it is no YAML, has a tag or key that is not plain data, repeats a key, or exceeds
      a limit of runners/configs/value_limits.py.
  """
  loader = None
  try:
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
      return None
    check_values(root, _below)
    return loader.construct_document(root)
  except yaml.MarkedYAMLError as error:
    raise UserError(
      f"{source} is not YAML: {error.problem}{_place(error.problem_mark)}"
    ) from error
  except yaml.reader.ReaderError as error:
    raise UserError(
      f"{source} is not YAML: {error.reason} (#x{error.character:04x})"
    ) from error
  except RecursionError as error:
    raise UserError(f"{source} is nested too deep to be read") from error
  except UserError as error:
    raise UserError(f"{source}: {error}") from error
  except (ValueError, LookupError, OverflowError) as error:  # !!bool x, !!int 'a'
    reason = f"{type(error).__name__}: {error}"
    raise UserError(f"{source} has a value that is not of its tag ({reason})") from error
  finally:
    if loader is not None:
      loader.dispose()


def _below(node: yaml.Node) -> Iterable[yaml.Node]:
  """The nodes directly below a node; UserError for an unknown tag or a repeated key."""
  if node.tag.removeprefix(_TAG) not in _RESOLVED:
    name = node.tag.replace(_TAG, "!!")
    raise UserError(f"the tag {shown(name)} is for no plain value{_place(node.start_mark)}")
  if isinstance(node, yaml.ScalarNode):
    return ()
  if isinstance(node, yaml.SequenceNode):
    return node.value
  met = set()
  for key, _ in node.value:
    if not isinstance(key, yaml.ScalarNode):
      raise UserError(f"a key is no plain value{_place(key.start_mark)}")
    if key.value in met:
      raise UserError(f"the key {shown(key.value)} stands twice{_place(key.start_mark)}")
    met.add(key.value)
  return [child for pair in node.value for child in pair]


def _place(mark: yaml.Mark | None) -> str:
  return f" at line {mark.line + 1}" if mark else ""
