"""Every command that README.md shows works, in the order in which it shows them.

They run in one empty folder, like a reader's. Runs are shrunk by options of their own; nothing
else about a command is changed.
"""

import re
from pathlib import Path

import pytest

from tests.shown_commands import (
  PRINTED,
  ROOT,
  SHRUNK,
  blocks,
  check_in_one_shell,
  command_of,
  run,
  runner_commands,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_command_works_as_shown_line_by_line_in_one_shell(tmp_path):
  (tmp_path / "input.txt").write_text(README * 4, encoding="utf-8")
  commands = runner_commands(README)
  assert {command_of(arguments) for arguments in commands} == set(PRINTED)
  check_in_one_shell(README, tmp_path)
  assert {path.name for path in (tmp_path / "runs").iterdir()} == _runs_named(commands)


def _runs_named(commands: list[list[str]]) -> set[str]:
  """The folders in runs/ that the training commands say they make."""
  names = set()
  for arguments in commands:
    flags = dict(a.lstrip("-").split("=", 1) for a in arguments if "=" in a)
    if command_of(arguments) == "train":
      names.add(Path(flags["workdir"]).name if "workdir" in flags else flags["exp"])
  return names


@pytest.mark.slow
def test_a_run_leaves_the_files_of_the_table(tmp_path):
  run(["--exp=gpt2.Nano", "--workdir=run", *SHRUNK[:-1]], tmp_path)
  _, section = README.split("## What a run leaves\n")
  first_cells = re.findall(r"^\| (.*?) \|", section.split("\n## ")[0], re.M)
  named = re.findall(r"`([\w.]+)/?(?:<step>/)?`", "\n".join(first_cells))
  assert len(named) >= 6
  for name in named:
    assert (tmp_path / "run" / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_has_every_target_that_a_page_names(page):
  shell = "".join(blocks((ROOT / page).read_text(encoding="utf-8"), "sh"))
  wanted = set(re.findall(r"\bmake ([a-z-]+)", shell))
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  assert wanted and wanted <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_and_folder_that_a_page_names_exists(page):
  text = (ROOT / page).read_text(encoding="utf-8")
  folders = "experiments|runners|tasks|input_pipelines|layers|tests"
  named = re.findall(rf"`((?:{folders})/[\w/.]*)`", text) + re.findall(r"\]\(([\w/.]+)\)", text)
  assert len(named) >= 5
  for name in named:
    assert (ROOT / name).exists(), name


def test_the_shell_is_told_where_runner_is_before_its_first_use():
  _, block = blocks(README, "sh")
  first, *_ = block.splitlines()
  assert first.split(" #")[0].strip() == ". .venv/bin/activate"


def test_the_commands_come_before_any_heading():
  assert README.index("runner --exp=gpt2.Nano") < README.index("\n## ")
