"""Prints the user's mistakes: one line each, of limited length."""

import re

from experiments.override_arguments import OverrideErrors
from layers.errors import UserError

MAX_LINE = 900  # characters; a wrong value may itself have megabytes


def error_lines(error: UserError) -> list[str]:
  """A line for each wrong override, or one line; an error while building names the path."""
  if isinstance(error, OverrideErrors):
    return [one_line(text) for text in error.errors]
  path, cause = _unwrap(error)
  text = str(cause)
  return [one_line(f"{path}: {text}" if path and not text.startswith(path) else text)]


def one_line(text: str) -> str:
  """A text as one printable line; the middle of a long one is left out.

  Its beginning names the error, and its end the cure.
  """
  if len(text) > 4 * MAX_LINE:  # before the slow work on each character
    text = f"{text[: 2 * MAX_LINE]} {text[-2 * MAX_LINE :]}"
  text = " ".join(text.split())
  text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
  half = MAX_LINE // 2
  return text if len(text) <= MAX_LINE else f"{text[:half]} ... {text[-half:]}"


def _unwrap(error: UserError) -> tuple[str, BaseException]:
  """The path at which Fiddle was building, and the original error.

  Fiddle raises a subclass that holds the original error and a message with the path.
  """
  path, cause = "", error
  while (inner := vars(cause).get("proxy_base_exception")) is not None:
    place = re.search(r" at <root>\.?(.*?) with positional", vars(cause)["proxy_message"], re.S)
    path, cause = place[1] if place else path, inner
  return path, cause
