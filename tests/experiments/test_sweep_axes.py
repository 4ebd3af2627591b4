"""Values of a sweep are parted by the commas that no bracket and no quote holds."""

import pytest

from experiments.sweep_axes import read_axis, split_values
from layers.errors import UserError


@pytest.mark.parametrize(
  "text, values",
  [
    ("1", ["1"]),
    ("1e-3, 3e-4", ["1e-3", "3e-4"]),
    ("(1, 2),(3, 4)", ["(1, 2)", "(3, 4)"]),
    ("[],[@Console()]", ["[]", "[@Console()]"]),
    (
      "@sgdm(learning_rate=0.1, momentum=0),@lion",
      ["@sgdm(learning_rate=0.1, momentum=0)", "@lion"],
    ),
    ("{'a': [1, 2]},None", ["{'a': [1, 2]}", "None"]),
    ("'a,b',\"c,'d\"", ["'a,b'", '"c,\'d"']),
    (r"'it\'s, so',b'1,2'", [r"'it\'s, so'", "b'1,2'"]),
    ("/data/it's,/data/that's", ["/data/it's", "/data/that's"]),
    ("1,,2", ["1", "", "2"]),
  ],
)
def test_only_outer_commas_part_values(text, values):
  assert split_values(text) == values


def test_an_axis_has_its_path_and_its_values():
  axis = read_axis("rates['a=b']=0.1,0.2")
  assert (axis.path, axis.values) == ("rates['a=b']", ("0.1", "0.2"))


@pytest.mark.parametrize(
  "text, message",
  [
    ("seed", "'seed' is no assignment"),
    ("=1,2", "the path is empty"),
    ("seed=", "the value is empty"),
    ("seed=1,", "the value is empty"),
    ("seed=1,2,1", "the value 1 is there twice"),
    ("sizes=[1, 2", r"the value \[1, 2 cannot be read"),
    ("sizes+=1,2", r"sweep whole lists: PATH=\[...\],\[...\]"),
  ],
)
def test_a_malformed_axis_is_named_with_what_is_wrong(text, message):
  with pytest.raises(UserError, match=message) as error:
    read_axis(text)
  assert str(error.value).startswith(f"--sweep={text}: ")
