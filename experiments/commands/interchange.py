"""`runner import` from Hugging Face and LWM, and `runner export` to Hugging Face."""

import contextlib
import dataclasses
import errno
import os
import pathlib
from collections.abc import Iterator

import fiddle as fdl

from experiments.commands.running import check_step
from experiments.invocation import Invocation
from experiments.resolution import Resolved
from input_pipelines.foreign_json import Document
from layers.errors import UserError
from runners.configs.files import JSON_NAME
from runners.processes.signals import Interruption

# Their model_type -> the experiment used if none is named: it gives the run its data and
# optimizer, while the model's fields are set from their config.
_FAMILIES = {"llama": "lwm.TextLlamaDebug", "gpt2": "gpt2.Nano"}


def import_model(invocation: Invocation) -> int:
  """Makes a run from the folder or file that --from names."""
  if invocation.source is None or invocation.workdir is None:
    raise UserError("the command is written `runner import --from=FOLDER --workdir=DIR`")
  if pathlib.Path(invocation.source).is_file():
    return _import_file(invocation, invocation.source, invocation.workdir)
  if invocation.scan_axis is not None:
    raise UserError("--scan_axis is for a streaming checkpoint of LWM, not for a folder")
  from runners.interchange.hugging_face_config import family_of, read_config
  from runners.interchange.hugging_face_import import import_folder

  theirs = read_config(invocation.source)
  named = _names_a_model(invocation)
  exp = None if named else _FAMILIES[family_of(theirs)]
  resolved = dataclasses.replace(invocation, exp=invocation.exp or exp).resolve()
  if not named:
    _check_unset(resolved, theirs)
  with _writing(invocation.workdir):
    import_folder(
      invocation.source, invocation.workdir, resolved.config, resolved.exp, adapt=not named
    )
  return 0


def _check_unset(resolved: Resolved, theirs: Document) -> None:
  """Raises UserError if an override and their config give a field different values."""
  from runners.interchange.hugging_face_config import differences

  changed = [f"{change.path}." for change in resolved.changes]
  lines = differences(fdl.build(resolved.config.model), theirs)
  of_field = lambda line: line.partition(":")[0] + "."
  wrong = [line for line in lines if any(path.startswith(of_field(line)) for path in changed)]
  if wrong:
    raise UserError(
      f"the model is made theirs, which an override contradicts: {'; '.join(wrong)}; leave it "
      "out here, and give it where the imported run is used"
    )


def _import_file(invocation: Invocation, file: str, workdir: str) -> int:
  if not _names_a_model(invocation):
    raise UserError(
      f"{file} is read as a streaming checkpoint of LWM, which does not say how many heads its "
      "model has: name the experiment, like --exp=lwm.TextLlama7B"
    )
  from runners.interchange.lwm_import import import_stream

  resolved = invocation.resolve()
  axis = None if invocation.scan_axis is None else int(invocation.scan_axis)
  with _writing(workdir):
    import_stream(file, workdir, resolved.config, resolved.exp, scan_axis=axis)
  return 0


@contextlib.contextmanager
def _writing(folder: str) -> Iterator[None]:
  """Stops at a signal only where partial files can be removed; a full disk is a UserError."""
  try:
    with Interruption():
      yield
  except OSError as error:
    reason = error.strerror or os.strerror(errno.ENOSPC)  # NumPy says only how much was written
    raise UserError(
      f"{error.filename or folder}: {reason}; make room or mend it, or choose another place "
      f"than {folder}, which is left without a model"
    ) from error


def _names_a_model(invocation: Invocation) -> bool:
  return invocation.exp is not None or any(o.verb == "config" for o in invocation.overrides)


def export_model(invocation: Invocation) -> int:
  """Writes a checkpoint of a run into the folder that --to names."""
  if invocation.to is None or invocation.workdir is None:
    raise UserError("the command is written `runner export --workdir=DIR --to=FOLDER`")
  if not (pathlib.Path(invocation.workdir) / JSON_NAME).is_file():
    raise UserError(f"there is no run in {invocation.workdir} (no {JSON_NAME})")
  check_step(invocation.step, ["latest"])
  from runners.interchange.hugging_face_export import export_folder

  step = None if invocation.step == "latest" else int(invocation.step)
  with _writing(invocation.to):
    export_folder(invocation.workdir, invocation.to, step=step, dtype=invocation.dtype)
  return 0
