"""Checks the form of the JSON saved beside the state before it is used."""

from collections.abc import Mapping
from typing import Any

from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.checkpoints.damage import DamagedCheckpoint


def check_saved_run(saved: Mapping[str, Any]) -> None:
  """Raises DamagedCheckpoint unless a run can continue from `saved`.

  Checksums reveal accidents, not a document that somebody wrote together with its checksum.
  """
  document = Document(saved, "run/metadata")
  try:
    data, callbacks = document.document("data"), document.list("callbacks")
    data.whole("batch")
    data.text("content")
    data.whole("rows", None)
    data.whole("sequence_length", None, at_least=1)
  except UserError as error:
    raise DamagedCheckpoint(str(error)) from error
  for entry in callbacks:
    match entry:
      case [str(), dict()]:
        pass
      case _:
        raise DamagedCheckpoint("run/metadata: callbacks holds more than names and states")
