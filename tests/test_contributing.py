"""Every snippet of CONTRIBUTING.md is short and works, in a package outside the checkout."""

import tomllib
from pathlib import Path

import pytest

from tests.shown_commands import ROOT, SHRUNK, blocks, check_all, ended, run, runner_commands

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SNIPPETS = blocks(PAGE, "python")
MOST_LINES = 10
MOST_LINES_OF_THE_WHOLE = 25


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
  names = (
    *("recipes", "llamas", "layers", "tasks", "optimizers", "callbacks", "steps"),
    "experiments",
  )
  assert files == [f"# my_lab/{name}.py" for name in names]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.partition("\n")[0])
def test_a_snippet_has_at_most_ten_lines_and_the_whole_some_more(snippet):
  first, *lines = filter(None, snippet.splitlines())  # the first names the file
  assert len(lines) <= (MOST_LINES_OF_THE_WHOLE if "experiments" in first else MOST_LINES)


@pytest.mark.slow
def test_every_snippet_trains_by_the_command_beside_it(folder):
  commands = runner_commands(PAGE)
  for snippet in SNIPPETS:
    module = snippet.partition("\n")[0].removeprefix("# ").removesuffix(".py").replace("/", ".")
    assert any(module in argument for command in commands for argument in command), module
  check_all(commands, folder)


@pytest.mark.slow
def test_a_package_elsewhere_trains_goes_on_and_is_evaluated(folder):
  mine = ["--load=my_lab.experiments", "--exp=my_lab.MyModel", *SHRUNK]
  assert "parameters" in (printed := run(mine, folder)) and "done: 2 steps" in printed
  assert "my_lab.MyModel" in run(["list", "--load=my_lab.experiments", "my_lab"], folder)
  why = run(["why", "optimizer.clip_norm", *mine], folder)
  assert why.startswith("optimizer.clip_norm = 1.0\n  set by the default of adan")
  longer = [argument.replace("num_steps=2", "num_steps=3") for argument in mine]
  printed = run([*longer, "--accept_change=num_steps"], folder)
  assert "step 2 of 3" in printed and "done: 3 steps" in printed

  # Its own record is enough for these, and leave to run the code that it names.
  evaluate = ["eval", "--workdir=runs/my_lab.MyModel"]
  evaluated = run([*evaluate, "--load=my_lab"], folder)
  assert evaluated.startswith("step 3  eval/validation/loss=")
  repeated = ["--config=runs/my_lab.MyModel/config.json", "--workdir=again", "--load=my_lab"]
  assert "done: 3 steps" in run(repeated, folder)
  refused = ended(evaluate, folder)
  assert refused.returncode == 2 and "if you trust it, add --load=my_lab\n" in refused.stderr


@pytest.mark.slow
def test_an_entry_point_takes_the_place_of_load(folder, monkeypatch):
  (block,) = blocks(PAGE, "toml")
  project = tomllib.loads(block)["project"]
  installed = folder / "site" / "my_lab-1.dist-info"
  installed.mkdir(parents=True)
  (installed / "METADATA").write_text(
    f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
  )
  ((group, points),) = project["entry-points"].items()
  lines = [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
  (installed / "entry_points.txt").write_text("\n".join(lines))
  (folder / "my_lab").rename(folder / "site" / "my_lab")
  monkeypatch.setenv("PYTHONPATH", str(folder / "site"), prepend=":")
  assert "my_lab.MyModel" in run(["list"], folder)
  assert "done: " in run(["--exp=my_lab.MyModel", *SHRUNK], folder)
  swept = ["sweep", "--exp=my_lab.MyModel", "--sweep=optimizer.clip_norm=0.5,1", *SHRUNK]
  assert run(swept, folder).count("\nfinished  ") == 2
