"""Statements of gin are in force for one Task, and change nothing for the others."""

import gin
import pytest

from input_pipelines.gin_bindings import bound
from layers.errors import UserError


@gin.configurable
def cut(length=10, letter="x"):
  return length, letter


@pytest.fixture(autouse=True)
def bound_by_a_module():
  gin.clear_config()
  gin.parse_config("LENGTH = 5\ncut.length = %LENGTH")
  yield
  gin.clear_config()


def test_statements_replace_what_modules_bind_for_as_long_as_they_are_in_force():
  assert cut() == (5, "x")
  with bound(["cut.letter = 'y'"]):
    assert cut() == (10, "y")
  assert cut() == (5, "x")
  with bound([]):
    assert cut() == (5, "x")


def test_statements_that_are_wrong_leave_what_modules_bind():
  with pytest.raises(UserError, match="gin: No configurable matching 'no_such'"):
    with bound(["cut.letter = 'y'", "no_such.x = 1"]):
      pass
  assert cut() == (5, "x")
