"""Every public function, class and method of tasks/ says what it takes and gives.

A method that overrides a documented one of a base class need not repeat its docstring.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FLOORS = ("layers", "input_pipelines", "tasks")


def classes_in(source: str) -> Iterator[ast.ClassDef]:
  return (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))


def class_table() -> dict[str, ast.ClassDef]:
  """Name -> class, for every class at the top level of a file on the lower floors."""
  paths = (path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
  return {node.name: node for path in paths for node in classes_in(path.read_text())}


def methods_of(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
  return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def is_documented(node: ast.ClassDef, method: str, known: dict[str, ast.ClassDef]) -> bool:
  """Whether the class or one of its bases, found by name, has a docstring on the method."""
  own = methods_of(node).get(method)
  if own is not None and ast.get_docstring(own):
    return True
  bases = (
    known[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in known
  )
  return any(is_documented(base, method, known) for base in bases)


def undocumented(source: str, known: dict[str, ast.ClassDef]) -> list[str]:
  """The public names of a file that lack a docstring, such as `NextToken.loss`."""
  found = []
  for node in ast.parse(source).body:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
      continue
    if not ast.get_docstring(node):
      found.append(node.name)
    for name in methods_of(node) if isinstance(node, ast.ClassDef) else ():
      if not name.startswith("_") and not is_documented(node, name, known):
        found.append(f"{node.name}.{name}")
  return found


@pytest.mark.parametrize(
  "path", sorted((ROOT / "tasks").glob("*.py")), ids=lambda path: path.stem
)
def test_every_public_name_of_tasks_has_a_docstring(path):
  assert not undocumented(path.read_text(), class_table())


def test_a_public_method_without_a_docstring_is_found_unless_its_base_has_one():
  source = '''
class Base:
  """A base."""

  def documented(self):
    """Gives 1."""

  def bare(self): ...

class Derived(Base):
  """Derived."""

  def documented(self): ...

  def bare(self): ...

  def _private(self): ...

def function(): ...
'''
  known = {node.name: node for node in classes_in(source)}
  assert undocumented(source, known) == ["Base.bare", "Derived.bare", "function"]
