"""Formats a resolved config: flat text, JSON, or the Python that builds it."""

from experiments.python_code import to_python
from experiments.resolution import Resolved
from layers.errors import UserError
from layers.suggestions import did_you_mean
from runners.configs.files import to_json, to_text

FORMATS = {
  "flat": lambda resolved: to_text(resolved.config),
  "json": lambda resolved: to_json(resolved.config, resolved.exp),
  "python": lambda resolved: to_python(resolved.config),
}


def show(resolved: Resolved, output_format: str = "flat") -> str:
  """The config in one of FORMATS, ending with a newline."""
  if output_format not in FORMATS:
    raise UserError(
      f"there is no --format={output_format}: {did_you_mean(output_format, FORMATS)}"
    )
  return FORMATS[output_format](resolved)
