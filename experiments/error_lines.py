"""The user's mistakes as the command line prints them: one line each."""

import re

from experiments.overrides import OverrideErrors
from layers.errors import UserError


def error_lines(error: UserError) -> list[str]:
  """A line for each wrong override, else one; what failed while it was built says where."""
  if isinstance(error, OverrideErrors):
    return list(error.errors)
  path, cause = _unwrap(error)
  text = " ".join(str(cause).split())
  return [f"{path}: {text}" if path and not text.startswith(path) else text]


def _unwrap(error: UserError) -> tuple[str, BaseException]:
  """The path at which Fiddle was building, and the error without what Fiddle adds to it.

  Fiddle raises a subclass that holds the error itself, and words of its own that name the path.
  """
  path, cause = "", error
  while (inner := vars(cause).get("proxy_base_exception")) is not None:
    place = re.search(r" at <root>\.?(.*?) with positional", vars(cause)["proxy_message"], re.S)
    path, cause = place[1] if place else path, inner
  return path, cause
