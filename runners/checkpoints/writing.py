"""Saves checkpoints while the loop continues, and keeps those that the policy names.

runners/checkpoints/documents.py lists the parts of a checkpoint.
"""

import concurrent.futures
import contextlib
import errno
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers

from layers.errors import GENTLER, Diverged, UserError
from runners.array_names import named_arrays
from runners.checkpoints.damage import listed
from runners.checkpoints.documents import INVENTORY, METRICS, ORIGIN, PARAMS, RUN, STATE
from runners.checkpoints.finiteness import non_finite
from runners.checkpoints.folders import REMOVED, saved_steps
from runners.checkpoints.inventory import take_inventory
from runners.checkpoints.retention import Checkpoints
from runners.train_state import TrainState

IMPORTED = "imported"  # key in the document RUN of an import: where the parameters come from
_LONGEST_REASON = 300
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
_NOT_ASKED_FOR = (
  "Skipping merge of OCDBT",
  "Unable to find the step",
  "Waiting for previous save",
)


class CheckpointWriter:
  """Saves without stopping the loop, and keeps checkpoints as the policy says.

  Args:
    directory: the run's checkpoints/, without damaged steps (see restore_newest).
    policy: when to save and what to keep.
    unpadded: the state's shapes without padding for the mesh; None if there is no padding.
    before: called before each save; raises UserError to refuse it.
    config: path -> value as text, for every field of the run's config.
    infinite: gives the names of arrays that may hold an infinity; called only if one does.

  When an error leaves the `with` block, closing raises no second error.
  """

  def __init__(
    self,
    directory: str | Path,
    policy: Checkpoints,
    unpadded: Any = None,
    before: Callable[[], None] = lambda: None,
    config: Mapping[str, str] | None = None,
    infinite: Callable[[], Collection[str]] = frozenset,
  ):
    self._directory = Path(directory).absolute()
    self._policy, self._unpadded, self._before = policy, unpadded, before
    self._config, self._infinite = config, infinite
    self._remover = concurrent.futures.ThreadPoolExecutor(1, "remove_checkpoints")
    self._removing = self._remover.submit(list)  # nothing yet
    absl_logging.get_absl_logger().addFilter(_is_worth_saying)
    logging.getLogger("asyncio").addFilter(_is_raised_elsewhere)
    if sys.unraisablehook is not _print_unless_late:
      _hook_before.append(sys.unraisablehook)
      sys.unraisablehook = _print_unless_late
    # A file for each array and process: three times as fast as Orbax's default (one database
    # for all arrays), and a damaged file harms only one array.
    arrays = ocp.StandardCheckpointHandler(use_ocdbt=False)
    documents = {item: ocp.JsonCheckpointHandler() for item in (RUN, ORIGIN, INVENTORY)}
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_handlers={STATE: arrays, **documents},
      options=ocp.CheckpointManagerOptions(
        enable_async_checkpointing=True,
        preservation_policy=_preservation(policy),
        # A step is renamed before it is deleted: otherwise a run killed meanwhile would leave
        # a partial folder under the step's number, which looks like a damaged checkpoint.
        todelete_subdir=REMOVED,
        # When to save is the loop's decision alone.
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
      ),
    )

  def due(self, step: int) -> bool:
    return self._policy.every is not None and step % self._policy.every == 0

  def save(
    self, step: int, state: TrainState, run: Mapping[str, Any], scalars: Mapping[str, float]
  ) -> None:
    """Starts saving; returns when the state may be donated.

    Args:
      step: the number of updates done.
      state: the state after `step` updates.
      run: JSON to save beside it.
      scalars: name -> value at this step; the policy's metric is saved if it is among them.

    Raises:
      Diverged: the state is not finite. Nothing is written, and no older checkpoint removed.
      UserError: this save or the one before failed; older checkpoints are intact.
    """
    # At a logged step the state's sums are reset, so a bad gradient shows in the scalars only.
    if not math.isfinite(scalars.get("train/grad_norm", 0.0)):
      raise Diverged(
        f"step {step} is not saved: a gradient before it was not finite. {GENTLER}"
      )
    infinite = self._check_finite(step, state)
    value = scalars.get(self._policy.metric, math.nan)
    metrics = {self._policy.metric: value} if math.isfinite(value) else None
    documents: dict[str, Any] = {RUN: dict(run), ORIGIN: self._origin(step)}
    if metrics is not None:
      # The manager keeps them in memory; a later start and `runner eval` need them on disk.
      documents[METRICS] = metrics
    self._write(step, state, documents, metrics, infinite)

  def save_params(self, step: int, params: Any, run: Mapping[str, Any]) -> None:
    """Starts saving parameters alone: for evaluation or init_from, not to resume a run.

    Args:
      step: the checkpoint's number.
      params: a tree of arrays, all of them finite.
      run: JSON to save beside it.
    """
    documents = {RUN: dict(run), ORIGIN: self._origin(step)}
    self._write(step, {PARAMS: params}, documents, None)

  def _check_finite(self, step: int, state: Any) -> list[str]:
    """Names of arrays with a permitted infinity; raises Diverged if any other is not finite."""
    arrays = dict(named_arrays(state))
    wrong, right = non_finite(arrays, self._infinite)
    if wrong:
      raise Diverged(
        f"step {step} is not saved: {len(wrong)} of its {len(arrays)} arrays are not finite "
        f"({listed(wrong)}). {GENTLER}"
      )
    return right

  def _origin(self, step: int) -> dict[str, Any]:
    return {"step": step} if self._config is None else {"step": step, "config": self._config}

  def _write(
    self,
    step: int,
    state: Any,
    documents: dict[str, Any],
    metrics: Mapping[str, float] | None,
    infinite: Collection[str] = (),
  ) -> None:
    inventory = take_inventory(state, self._unpadded, documents, infinite)
    items = {**documents, INVENTORY: inventory.to_json()}
    arguments = ocp.args.Composite(
      **{STATE: ocp.args.StandardSave(state)},
      **{item: ocp.args.JsonSave(document) for item, document in items.items()},
    )
    self._before()
    with self._reported():
      # Fails at once in a folder that refuses files; Orbax's threads would wait five minutes.
      tempfile.TemporaryFile(dir=self._directory).close()
      self._manager.wait_until_finished()
      self._remove_old()
      saved = self._manager.save(step, args=arguments, metrics=metrics)
    if not saved:
      raise RuntimeError(
        f"the checkpoint of step {step} was refused: {self._directory} holds step "
        f"{self._manager.latest_step()} already"
      )

  def wait(self) -> None:
    """Waits until the save is on disk; raises UserError if it could not be written."""
    with self._reported():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the save, and releases all resources; raises UserError as `wait` does."""
    with self._reported():
      self._manager.close()
      self._removing.result()
      remove(self._directory / REMOVED)
    self._remover.shutdown()

  def __enter__(self) -> "CheckpointWriter":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    try:
      self.close()
    except UserError:
      if kind is None:
        raise

  def _remove_old(self) -> None:
    """Starts deleting steps that the previous save discarded; the loop continues meanwhile."""
    self._removing.result()
    # Not their parent folder: the save that begins now may move more steps there.
    folders = list((self._directory / REMOVED).glob("*"))
    self._removing = self._remover.submit(lambda: [remove(folder) for folder in folders])

  @contextlib.contextmanager
  def _reported(self) -> Iterator[None]:
    """Turns an error of the file system into a UserError of one line."""
    try:
      yield
    except (OSError, ValueError) as error:  # ValueError: tensorstore's error for a full disk
      kept = saved_steps(self._directory)
      continues = f"continues from step {kept[-1]}" if kept else "begins anew"
      raise UserError(
        f"cannot save a checkpoint in {self._directory}: {_reason(error)}; make "
        f"room or mend the folder, and give the same command again: the run {continues}"
      ) from error


def _reason(error: OSError | ValueError) -> str:
  """The system's own words, without the paths and source lines that tensorstore adds."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  known = (os.strerror(number) for number in _DISK_ERRORS)
  return next(
    (words for words in known if words in text), text.splitlines()[0][:_LONGEST_REASON]
  )


def _is_raised_elsewhere(record: logging.LogRecord) -> bool:
  """False for asyncio's message on further errors of a save whose first is already reported."""
  return "exception was never retrieved" not in record.getMessage()


_hook_before: list[Callable[[Any], None]] = []


def _print_unless_late(unraisable: Any) -> None:
  """Prints an error that nobody can catch, except one: tensorstore's threads raise it when they
  finish a part of a save that Orbax has already abandoned.
  """
  if str(unraisable.exc_value) != "Event loop is closed":
    _hook_before[-1](unraisable)


def remove(path: Path) -> None:
  """Deletes a folder and its contents, or a file; a link without its target."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  elif os.path.lexists(path):
    path.unlink()


def _is_worth_saying(record: logging.LogRecord) -> bool:
  """Drops Orbax's notices on merging OCDBT databases and on steps that somebody deleted, and
  the tracebacks of threads whose error `wait` reports.
  """
  if "orbax" not in Path(record.pathname).parts:
    return True
  return not record.exc_info and not any(text in record.msg for text in _NOT_ASKED_FOR)


def _preservation(policy: Checkpoints) -> Any:
  reasons: list[Any] = [checkpoint_managers.LatestN(policy.keep_latest)]
  if policy.keep_every:
    reasons.append(checkpoint_managers.EveryNSteps(policy.keep_every))
  if policy.keep_best:
    worst = math.inf if policy.mode == "min" else -math.inf

    def measured(metrics: Mapping[str, float]) -> float:
      # Checkpoints saved under another policy.metric lack this one.
      value = metrics.get(policy.metric, worst)
      return value if math.isfinite(value) else worst

    reasons.append(
      checkpoint_managers.BestN(
        n=policy.keep_best,
        get_metric_fn=measured,
        # Orbax keeps the last ones of the sorted list.
        reverse=policy.mode == "min",
        keep_checkpoints_without_metrics=False,
      )
    )
  return checkpoint_managers.AnyPreservationPolicy(reasons)
