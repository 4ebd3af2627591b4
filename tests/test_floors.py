"""A folder imports only what stands below it and has no cycle, and its files stay readable."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up.
FLOORS = ("layers", "input_pipelines", "tasks", "runners", "experiments")

# Within a floor, from the ground up: a wing imports no wing that stands after it here.
# CONTRIBUTING.md draws the same order.
WINGS = {
  "layers": ("attention_cores",),
  "runners": (
    "processes",
    "configs",
    "metrics",
    "devices",
    "checkpoints",
    "interchange",
    "sweeps",
    "planning",
    "generation",
  ),
}

# On the landing of a floor with wings, and in a wing.
MAX_ROOMS = 30

# What a floor does without, wherever in a file the import stands.
WITHOUT = {
  "layers": {"tensorflow", "tensorflow_datasets", "seqio", "grain", "datasets", "clu", "orbax"},
  "input_pipelines": {"jax", "jaxlib", "flax", "optax", "orbax", "clu"},
}

# Names that say nothing of what is inside: whatever has no home ends up there.
DRAWERS = {"utils", "util", "common", "misc", "helpers", "helper", "lib"}

MAX_LINES = 400

# The one folder of tests that mirrors none: small users of the whole tree.
TENANTS = Path("tenants")


def sources(*folders: str) -> list[Path]:
  return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in sources(*FLOORS)}


def imports(source: str) -> Iterator[str]:
  """Dotted names of all that is imported, at the top of the file or deep inside a function."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_modules(source: str) -> set[str]:
  """The modules of this tree among them, whichever way they are imported."""
  names = set(imports(source))
  return (names | {name.rpartition(".")[0] for name in names}) & MODULES


def floors_above(floor: str, source: str) -> set[str]:
  """What `floor` must not import but `source` does: higher floors, and what is not shipped."""
  forbidden = {*FLOORS[FLOORS.index(floor) + 1 :], "tests", "benchmarks"}
  return {name for name in imports(source) if name.partition(".")[0] in forbidden}


def all_cases(*folders: str):
  return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in sources(*folders)]


@pytest.mark.parametrize("path", all_cases(*FLOORS))
def test_a_folder_imports_only_what_stands_below_it(path):
  assert not floors_above(path.relative_to(ROOT).parts[0], path.read_text())


@pytest.mark.parametrize("path", all_cases(*WITHOUT))
def test_layers_need_no_data_library_and_input_pipelines_need_no_jax(path):
  unwanted = WITHOUT[path.relative_to(ROOT).parts[0]]
  assert not {name for name in imports(path.read_text()) if name.partition(".")[0] in unwanted}


@pytest.mark.parametrize("floor", FLOORS)
def test_a_folder_has_no_import_cycle(floor):
  graph = {
    module_name(path): imported_modules(path.read_text()) - {floor} for path in sources(floor)
  }
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def wing(module: str) -> str:
  """The folder below a floor that a module is in; for a module on the landing, itself."""
  return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("floor", WINGS)
def test_wings_import_each_other_in_one_direction(floor):
  folders = {path.name for path in (ROOT / floor).iterdir() if (path / "__init__.py").exists()}
  assert folders == set(WINGS[floor])
  for place, name in enumerate(WINGS[floor]):
    after = {f"{floor}.{later}" for later in WINGS[floor][place + 1 :]}
    for path in sources(f"{floor}/{name}"):
      assert not after & {wing(module) for module in imported_modules(path.read_text())}, path


@pytest.mark.parametrize("floor", WINGS)
def test_a_wing_and_the_rooms_outside_of_it_have_no_import_cycle(floor):
  graph: dict[str, set[str]] = {}
  for path in sources(floor):
    here = wing(module_name(path))
    there = {wing(module) for module in imported_modules(path.read_text())}
    graph.setdefault(here, set()).update(there - {here, floor})
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("folder", [*WINGS, *(f"runners/{name}" for name in WINGS["runners"])])
def test_no_landing_is_crowded(folder):
  assert len(list((ROOT / folder).glob("*.py"))) <= MAX_ROOMS, "give its subjects wings"


@pytest.mark.parametrize("path", all_cases(*FLOORS, "tests"))
def test_imports_are_absolute_and_files_have_one_subject(path):
  source = path.read_text()
  assert not [name for name in imports(source) if name.startswith(".")]
  assert len(source.splitlines()) <= MAX_LINES, "split it by subject"
  words = path.stem.split("_")
  assert not DRAWERS & {path.stem, path.parent.name, words[-1]} and words[0] != "base"


@pytest.mark.parametrize("path", all_cases(*FLOORS, "tests"))
def test_a_module_says_what_it_is(path):
  tree = ast.parse(path.read_text())
  assert not tree.body or ast.get_docstring(tree)


@pytest.mark.parametrize("path", all_cases("tests"))
def test_tests_mirror_the_tree_and_are_named_in_sentences(path):
  folder = path.parent.relative_to(ROOT / "tests")
  assert (ROOT / folder).is_dir() or folder == TENANTS
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
      assert len(node.name.split("_")) > 3, f"{node.name} is no sentence"


# The checks themselves


def test_an_import_inside_a_function_counts_as_any_other():
  source = "def later():\n  from runners import trainer\n  import experiments.registry\n"
  assert floors_above("tasks", source) == {"runners.trainer", "experiments.registry"}
  assert floors_above("experiments", source) == set()


def test_what_is_not_shipped_stands_on_no_floor():
  assert floors_above("experiments", "from tests import conftest") == {"tests.conftest"}


def test_both_ways_to_import_a_module_are_seen():
  for source in ("from layers import errors", "from layers.errors import UserError"):
    assert "layers.errors" in imported_modules(source)
