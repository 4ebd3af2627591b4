"""The experiments of the families in this folder, read from their source: nothing is imported.

So `runner list` answers at once, and a name that is misspelt, by its own message, even where a
family cannot be imported.
"""

import ast
import fnmatch
import functools
import inspect
import pathlib
from collections.abc import Iterator
from typing import NamedTuple


class Listing(NamedTuple):
  """What a list says of an experiment: the first line of its docstring, and its tags."""

  name: str
  summary: str
  tags: tuple[str, ...] = ()

  def matches(self, pattern: str) -> bool:
    """Whether a part of the name, a glob over it, or a tag is `pattern`, whatever the case."""
    name, pattern = self.name.lower(), pattern.lower()
    tags = [tag.lower() for tag in self.tags]
    return pattern in name or fnmatch.fnmatch(name, pattern) or pattern in tags


def first_line(docstring: str | None) -> str:
  """Of a docstring; an empty text where there is none."""
  return (inspect.cleandoc(docstring or "").splitlines() or [""])[0]


@functools.cache
def declared() -> dict[str, tuple[Listing, ...]]:
  """Module name -> what it registers, of the files beside this one that register anything."""
  folder = pathlib.Path(__file__).parent
  found = {path.stem: tuple(_declared_in(path)) for path in sorted(folder.glob("*.py"))}
  return {family: listings for family, listings in found.items() if listings}


def _declared_in(path: pathlib.Path) -> Iterator[Listing]:
  """Of the classes with `@register` or `@register(...)` at the top level of a file."""
  text = path.read_text(encoding="utf-8")
  if "\n@register" not in text:  # parsing is what costs
    return
  for node in ast.parse(text).body:
    if isinstance(node, ast.ClassDef):
      for decorator in filter(_is_register, node.decorator_list):
        summary = first_line(ast.get_docstring(node))
        yield Listing(f"{path.stem}.{node.name}", summary, _tags(decorator))


def _is_register(decorator: ast.expr) -> bool:
  if isinstance(decorator, ast.Call):
    decorator = decorator.func
  return isinstance(decorator, ast.Name) and decorator.id == "register"


def _tags(decorator: ast.expr) -> tuple[str, ...]:
  keywords = decorator.keywords if isinstance(decorator, ast.Call) else ()
  return tuple(tag for keyword in keywords for tag in ast.literal_eval(keyword.value))
