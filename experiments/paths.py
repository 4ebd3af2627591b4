"""Paths into a config, as users type them: `callbacks[0].patience`, `eval_data['x'].path`.

A step is an attribute, an integer index (negative counts from the end) or a key. A shell
removes quotes, so a key may also be bare: `eval_data[validation]`.
"""

import re

from fiddle import daglish

from layers.errors import UserError, shown
from runners.configs.tree import Path, Step

_STEP = re.compile(
  r"""(?P<dot>\.)? (?P<attribute>[^\W\d]\w*)
    | \[ \s* (?: (?P<index>-?\d{1,18})
               | (?P<quote>['"]) (?P<quoted>.*?) (?P=quote)
               | (?P<bare>[^\]'"]+?) ) \s* \]""",
  re.VERBOSE,
)


def parse_path(text: str) -> Path:
  """`callbacks[0].patience` -> (Attr("callbacks"), Index(0), Attr("patience"))."""
  steps: list[Step] = []
  position = 0
  while position < len(text):
    match = _STEP.match(text, position)
    if match is None or (match["attribute"] and bool(match["dot"]) == (not steps)):
      raise UserError(
        f"the path {shown(text)} cannot be read from {shown(text[position:])} on: write it like"
        " model.num_layers, callbacks[0].patience or eval_data['validation'].num_batches"
      )
    if match["attribute"]:
      steps.append(daglish.Attr(match["attribute"]))
    elif match["index"]:
      steps.append(daglish.Index(int(match["index"])))
    else:
      steps.append(daglish.Key(match["quoted"] if match["quote"] else match["bare"]))
    position = match.end()
  if not steps:
    raise UserError("the path is empty: name a field, like model.num_layers")
  return tuple(steps)


def split_assignment(text: str) -> tuple[str, str, str]:
  """`PATH=VALUE` or `PATH+=VALUE` -> (path, "=" or "+=", value).

  The first `=` outside brackets ends the path, so keys and values may contain more of them.
  """
  match = re.match(
    r"(?P<path>(?:[^\[\]=+]|\[[^\]]*\])*)(?P<verb>\+?=)(?P<value>.*)\Z", text, re.S
  )
  if match is None:
    raise UserError(f"{shown(text)} is no assignment: write PATH=VALUE or PATH+=VALUE")
  return match["path"].strip(), match["verb"], match["value"].strip()
