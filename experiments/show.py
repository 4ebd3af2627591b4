"""A resolved config for people and programs: flat text, JSON, or the Python that builds it."""

import fiddle as fdl
from fiddle.codegen import codegen

from experiments.resolution import Resolved
from layers.errors import UserError
from runners.config_files import to_json, to_text
from runners.suggestions import did_you_mean

# How large an expression may get before it is given a name of its own.
_EXPRESSION_NODES = 8


def show(resolved: Resolved, output_format: str = "flat") -> str:
  """The config in one of FORMATS, ending with a newline."""
  if output_format not in FORMATS:
    raise UserError(
      f"there is no --format={output_format}: {did_you_mean(output_format, FORMATS)}"
    )
  return FORMATS[output_format](resolved)


def _python(config: fdl.Config) -> str:
  """A function `config()` that returns an equal config."""
  code = codegen.new_codegen(
    config, top_level_fixture_name="config", max_expression_complexity=_EXPRESSION_NODES
  )
  return code if code.endswith("\n") else f"{code}\n"


FORMATS = {
  "flat": lambda resolved: to_text(resolved.config),
  "json": lambda resolved: to_json(resolved.config, resolved.exp),
  "python": lambda resolved: _python(resolved.config),
}
