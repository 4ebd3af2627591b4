"""Every snippet of CONTRIBUTING.md is short and works, in a package outside the checkout."""

import re
from pathlib import Path

import pytest

from tests.shown_commands import ROOT, SHRUNK, blocks, check_all, run, runner_commands

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SNIPPETS = blocks(PAGE, "python")
MOST_LINES = 10


@pytest.fixture
def folder(tmp_path) -> Path:
  """A folder with the snippets as the package my_lab, and the text that they read."""
  for snippet in SNIPPETS:
    first, _, _ = snippet.partition("\n")
    file = tmp_path / first.removeprefix("# ")
    file.parent.mkdir(exist_ok=True)
    file.write_text(snippet, encoding="utf-8")
  for name in ("haiku.txt", "haiku_held_out.txt"):
    lines = (f"an old silent pond, {line} times\n" for line in range(200))
    (tmp_path / name).write_text("".join(lines), encoding="utf-8")
  return tmp_path


def test_there_is_a_snippet_for_each_thing_that_people_add():
  files = [snippet.partition("\n")[0] for snippet in SNIPPETS]
  assert files == [
    f"# my_lab/{name}.py" for name in ("recipes", "layers", "tasks", "optimizers")
  ]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.partition("\n")[0])
def test_a_snippet_has_at_most_ten_lines(snippet):
  _, *lines = filter(None, snippet.splitlines())  # the first names the file
  assert len(lines) <= MOST_LINES


@pytest.mark.slow
def test_every_snippet_trains_by_the_command_beside_it(folder):
  commands = runner_commands(PAGE)
  for snippet in SNIPPETS:
    module = snippet.partition("\n")[0].removeprefix("# ").removesuffix(".py").replace("/", ".")
    assert any(module in argument for command in commands for argument in command), module
  check_all(commands, folder)


@pytest.mark.slow
def test_an_entry_point_takes_the_place_of_load(folder, monkeypatch):
  (block,) = blocks(PAGE, "toml")
  installed = folder / "site" / "my_lab-1.dist-info"
  installed.mkdir(parents=True)
  (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1\n")
  entry_points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", block).replace('"', "")
  (installed / "entry_points.txt").write_text(entry_points)
  (folder / "my_lab").rename(folder / "site" / "my_lab")
  monkeypatch.setenv("PYTHONPATH", str(folder / "site"), prepend=":")
  assert "recipes.Wide" in run(["list", "cpu"], folder)
  assert "done: " in run(["--exp=recipes.Wide", *SHRUNK], folder)
