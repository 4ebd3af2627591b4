"""A stranger's JSON is checked where it is read: one line names the file and the field."""

import pytest

from input_pipelines.foreign_json import Document, parse_json, read_document
from layers.errors import UserError


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("{", "not JSON"),
    (b"\xff{}", "not (UTF-8|JSON)"),
    ("[" * 200_000, "too deep"),
    ("9" * 5_000, "not JSON: Exceeds the limit"),
    ("", "not JSON"),
  ],
)
def test_what_is_no_json_is_one_line(text, reason):
  with pytest.raises(UserError, match=reason):
    parse_json(text, "x.json")


@pytest.mark.parametrize("value", ["48", 3.0, True, [3], {}, -1, 10**400, None])
def test_a_whole_number_is_nothing_else(value):
  with pytest.raises(UserError, match=r"x\.json: heads is .* has to be a whole number"):
    Document({"heads": value}, "x.json").whole("heads")


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), 10**400, 0])
def test_a_number_is_finite_and_above_its_bound(value):
  with pytest.raises(UserError, match="theta is .* has to be a number above 0"):
    Document({"theta": value}, "x.json").number("theta", above=0)


def test_values_of_the_right_type_are_given_as_they_are():
  document = Document(
    {"n": 3, "x": 1.5, "b": False, "t": "a", "l": [1], "d": {"n": 4}}, "x.json"
  )
  assert document.whole("n", at_least=3) == 3
  assert (document.number("x"), document.number("n")) == (1.5, 3)
  assert document.flag("b") is False
  assert document.text("t") == document.one_of("t", ["a", "b"]) == "a"
  assert document.list("l") == [1]
  assert document.document("d").whole("n") == 4


def test_an_absent_field_and_null_have_the_default():
  document = Document({"a": None}, "x.json")
  assert document.whole("a", 7) == document.whole("b", 7) == 7
  assert document.document("b", None) is None
  with pytest.raises(UserError, match=r"x\.json has no 'b'"):
    document.whole("b")
  with pytest.raises(UserError, match="a is null"):
    document.whole("a")


def test_a_field_of_a_part_is_named_with_the_part():
  document = Document({"rope": {"factor": "2"}}, "x.json")
  with pytest.raises(UserError, match=r"x\.json, rope: factor is \"2\""):
    document.document("rope").number("factor")


def test_a_long_wrong_value_is_cut():
  with pytest.raises(UserError) as caught:
    Document({"a": list(range(10**5))}, "x.json").text("a")
  assert len(str(caught.value)) < 200


def test_a_file_that_holds_no_object_is_refused(tmp_path):
  (tmp_path / "x.json").write_text("[1]")
  with pytest.raises(UserError, match="is a list, not a JSON object"):
    read_document(tmp_path / "x.json")
