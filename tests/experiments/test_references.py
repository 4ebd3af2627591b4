"""Every short name leads to something, and a name never means two things."""

import pytest

from experiments import references
from experiments.references import IN_TREE, find_reference, referable, register_reference
from experiments.value_syntax import FileText, Reference, Word, parse_value
from layers.errors import UserError


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
  monkeypatch.setattr(references, "_registered", dict(references._registered))


@pytest.mark.parametrize("name", IN_TREE)
def test_a_name_in_the_table_leads_to_a_class_or_function_of_that_name(name):
  assert find_reference(name).__name__ == name


def test_other_packages_add_their_own():
  @referable
  def my_optimizer(): ...

  assert find_reference("my_optimizer") is my_optimizer
  register_reference("my_optimizer", my_optimizer)  # a reload


def test_a_name_that_is_taken_is_refused():
  with pytest.raises(UserError, match="@adamw already means runners.optimizers:adamw"):
    register_reference("adamw", print)
  register_reference("mine", print)
  with pytest.raises(UserError, match="@mine already means builtins:print"):
    register_reference("mine", len)


def test_what_may_be_named_has_a_full_name():
  assert find_reference("optax:adam").__name__ == "adam"
  with pytest.raises(UserError, match="'optax' has no 'adm': did you mean adam"):
    find_reference("optax:adm")
  with pytest.raises(UserError, match="has no 'LayerNom': did you mean LayerNorm"):
    find_reference("layers.normalization:LayerNom")


VALUES = {
  "3": 3,
  "-1e-3": -1e-3,
  "+2": 2,
  "'a'": "a",
  "None": None,
  "(1, 'x')": (1, "x"),
  "{'a': [1, b]}": {"a": [1, Word("b")]},
  "{1, 2}": {1, 2},
  "word": Word("word"),
  "a.b": Word("a.b"),
  "a/b c.txt": Word("a/b c.txt"),
  "1/2": Word("1/2"),
  "me@host.org": Word("me@host.org"),
  "'@quoted'": "@quoted",
  "@name": Reference("name", None, "@name"),
  "@a.b:C()": Reference("a.b:C", {}, "@a.b:C()"),
  "@f(x=1, y='@z', z=[@g])": Reference(
    "f",
    {"x": 1, "y": "@z", "z": [Reference("g", None, "@g")]},
    "@f(x=1, y='@z', z=[@g])",
  ),
}


@pytest.mark.parametrize("text", VALUES)
def test_a_value_is_literals_words_and_references(text):
  assert parse_value(text) == VALUES[text] and parse_value(f" {text} ") == VALUES[text]


@pytest.mark.parametrize("text", ["", "(1,", "@f(1)", "@f(**x)", "@f + 1", "{[]: 1}", "'open"])
def test_a_broken_value_is_the_users_error(text):
  with pytest.raises(UserError):
    parse_value(text)
  assert FileText(text).text == text


def test_nothing_in_a_value_is_executed():
  text = "__import__('os').system('false')"
  assert parse_value(text) == Word(text)


ODD = {
  "-True": Word("-True"),
  "_reference_0": Word("_reference_0"),
  "[_reference_1, @adamw]": [Word("_reference_1"), Reference("adamw", None, "@adamw")],
  "~~~": Word("~~~"),
  "é": Word("é"),
  "[é, ü.x]": [Word("é"), Word("ü.x")],
  "[a,\n b.c]": [Word("a"), Word("b.c")],
}


@pytest.mark.parametrize("text", ODD)
def test_what_only_looks_like_an_expression_is_a_word(text):
  assert parse_value(text) == ODD[text]


@pytest.mark.parametrize(
  "text", ["9" * 400, "-" + "9" * 99, "[" * 99 + "]" * 99, "-" * 9000 + "1", "a\0", "\ud800"]
)
def test_what_no_field_can_hold_is_refused_in_a_short_line(text):
  with pytest.raises(UserError) as caught:
    parse_value(text)
  assert len(str(caught.value)) < 300
