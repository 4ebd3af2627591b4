"""The values of a sweep as users type them: `--sweep=PATH=V1,V2,...`.

Each value has the grammar of `--set`. Only commas outside brackets and quotes separate values:
`optimizer=@sgdm(learning_rate=0.1, momentum=0),@lion(learning_rate=1e-4)` has two.
"""

import dataclasses
import re

from experiments.paths import parse_path, split_assignment
from experiments.value_syntax import parse_value
from layers.errors import UserError

_PAIRS = {"(": ")", "[": "]", "{": "}"}

# A quoted text (an apostrophe within a word begins none), or any single character.
_TOKEN = re.compile(
  r"""(?<!\w)[bBrRuU]{0,2} (?: '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" ) | .""",
  re.DOTALL | re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class Axis:
  """One `--sweep`: a path, and its values as typed."""

  text: str
  path: str
  values: tuple[str, ...]

  def __str__(self) -> str:
    return f"--sweep={self.text}"


def read_axis(text: str) -> Axis:
  """Parses `PATH=V1,V2,...`; UserError if the text has another form or repeats a value."""
  try:
    path, verb, listed = split_assignment(text)
    parse_path(path)
    if verb != "=":
      raise UserError("+= adds to one list; sweep whole lists: PATH=[...],[...]")
    values = split_values(listed)
    for value in values:
      parse_value(value)
      if values.count(value) > 1:
        raise UserError(f"the value {value} is there twice")
  except UserError as error:
    raise UserError(f"--sweep={text}: {error}") from error
  return Axis(text, path, tuple(values))


def split_values(text: str) -> list[str]:
  """The values between the outermost commas, without surrounding spaces."""
  values, expected = [""], []
  for token in _TOKEN.findall(text):
    if token == "," and not expected:
      values.append("")
      continue
    if token in _PAIRS:
      expected.append(_PAIRS[token])
    elif expected and token == expected[-1]:
      expected.pop()
    values[-1] += token
  return [value.strip() for value in values]
