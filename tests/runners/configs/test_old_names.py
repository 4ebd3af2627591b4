"""What older versions named still means the same object."""

import importlib

import pytest

from runners.configs import allowed_names, old_names
from runners.configs.old_names import current_name, with_current_names


@pytest.mark.parametrize("old, new", old_names._MODULES.items())
def test_a_moved_module_is_where_the_table_says(old, new):
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module(old)
  assert importlib.import_module(new).__name__ == new


@pytest.mark.parametrize("old, new", old_names._OBJECTS.items())
def test_a_moved_object_is_where_the_table_says(old, new):
  assert allowed_names.find(old) is allowed_names.find(new)


def test_an_old_name_is_found_and_what_may_not_be_named_is_still_refused():
  assert allowed_names.find("runners.retention:Checkpoints").__name__ == "Checkpoints"
  assert allowed_names.refused(["runners.retention:Checkpoints", "runners.retention:os"]) == [
    "runners.retention:os"
  ]


def test_names_in_a_text_are_those_of_today():
  text = "[@runners.console:Console(), 'runners.console is a text', @optax:adam]"
  assert with_current_names(text) == text.replace(
    "@runners.console:", "@runners.metrics.console:"
  )
  assert current_name("my_lab.runners.console:Console") == "my_lab.runners.console:Console"
