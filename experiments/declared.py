"""The experiments of this folder's families, read from their source without importing it.

So `runner list` and the error for a misspelt name come at once, even if a family cannot be
imported.
"""

import ast
import fnmatch
import functools
import inspect
import pathlib
from collections.abc import Iterator
from typing import NamedTuple


class Listing(NamedTuple):
  """A line of the list: an experiment's name, first docstring line and tags."""

  name: str
  summary: str
  tags: tuple[str, ...] = ()

  def matches(self, pattern: str) -> bool:
    """Whether `pattern`, ignoring case, is a part of the name, a glob for it, or a tag."""
    name, pattern = self.name.lower(), pattern.lower()
    tags = [tag.lower() for tag in self.tags]
    return pattern in name or fnmatch.fnmatch(name, pattern) or pattern in tags


def first_line(docstring: str | None) -> str:
  """The first line of a docstring; empty without one."""
  return (inspect.cleandoc(docstring or "").splitlines() or [""])[0]


@functools.cache
def declared() -> dict[str, tuple[Listing, ...]]:
  """Module name -> its experiments, for the files in this folder that register any."""
  folder = pathlib.Path(__file__).parent
  found = {path.stem: tuple(_declared_in(path)) for path in sorted(folder.glob("*.py"))}
  return {family: listings for family, listings in found.items() if listings}


def _declared_in(path: pathlib.Path) -> Iterator[Listing]:
  """Listings of the top-level classes of a file with `@register` or `@register(...)`."""
  text = path.read_text(encoding="utf-8")
  if "\n@register" not in text:  # saves parsing, the slow part
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
