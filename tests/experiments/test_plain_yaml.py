"""YAML is plain data within limits: small files that stand for much are refused at once."""

import pytest

from experiments.plain_yaml import parse_yaml
from layers.errors import UserError

BOMB = "x0: &x0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
  f"x{level}: &x{level} [{','.join([f'*x{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
PLAIN = {
  "a: [1, 1.5, true, null, text, '2']": {"a": [1, 1.5, True, None, "text", "2"]},
  "a: 2001-12-14": {"a": "2001-12-14"},
  "a: 1e-3": {"a": "1e-3"},
  "a: &x {b: 1}\nc: {<<: *x, d: 2}": {"a": {"b": 1}, "c": {"b": 1, "d": 2}},
  "": None,
}
REFUSED = {
  BOMB: "more than 100,000 values",
  "a: &a [*a]": "more than 64 times",
  "&a {b: *a}": "more than 64 times",
  "a: {<<: &x {b: 1}, <<: *x}": "the key '<<' stands twice at line 1",
  "a: 1\nb: 2\na: 3": "the key 'a' stands twice at line 3",
  "[" * 5000 + "]" * 5000: "nested too deep",
  "a: !!timestamp 200x": "the tag '!!timestamp' is for no plain value at line 1",
  "a: !!python/object/apply:os.system [x]": "is for no plain value",
  "a: !!binary xx": "is for no plain value",
  "a: !!bool x": "not of its tag",
  "a: !!int ''": "not of its tag",
  "a: !!float x": "not of its tag",
  "{[1]: 2}": "a key is no plain value",
  "a: [1": "is not YAML: expected ',' or ']'",
  "a: \0": "is not YAML: special characters",
}


@pytest.mark.parametrize("text", PLAIN)
def test_plain_data_are_read(text):
  assert parse_yaml(text, "a.yaml") == PLAIN[text]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_anything_else_is_one_short_line(text):
  with pytest.raises(UserError) as caught:
    parse_yaml(text, "a.yaml")
  message = str(caught.value)
  assert message.startswith("a.yaml") and REFUSED[text] in message
  assert len(message) < 300 and "\n" not in message
