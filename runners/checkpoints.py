"""Orbax checkpoints of everything that a run continues from.

A checkpoint is a folder checkpoints/<step> with the items

  state   the TrainState: parameters, optimizer, RNG key, sums of the current interval
  run     JSON: the data's position and content, the callbacks' state
  metrics JSON: the metric that decides which checkpoint is best, where it is known
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from layers.errors import UserError
from runners.checkpoint_listing import named_arrays, state_metadata
from runners.retention import Checkpoints
from runners.train_state import TrainState

STATE, RUN, METRICS = "state", "run", "metrics"


class CheckpointWriter:
  """Saves without stopping the loop, keeps what the policy says, restores the newest.

  Args:
    directory: the run's checkpoints/.
    policy: when to save and what to keep.
  """

  def __init__(self, directory: str | Path, policy: Checkpoints):
    self._directory = Path(directory).absolute()
    self._policy = policy
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_names=(STATE, RUN),
      options=ocp.CheckpointManagerOptions(
        enable_async_checkpointing=True,
        preservation_policy=_preservation(policy),
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
      step: updates done.
      state: of that step.
      run: JSON to save beside it.
      scalars: of that step; the policy's metric is saved if it is a number among them.
    """
    if self._manager.latest_step() == step:
      return
    if not np.isfinite(state.metrics.grad_norm.total):
      raise FloatingPointError(
        f"a gradient before step {step} was not finite: the step is not saved, and the last "
        "checkpoint is intact. Lower the learning rate, lengthen the warmup or clip harder"
      )
    value = scalars.get(self._policy.metric, math.nan)
    metrics = None if math.isnan(value) else {self._policy.metric: value}
    items: dict[str, Any] = {
      STATE: ocp.args.StandardSave(state),
      RUN: ocp.args.JsonSave(dict(run)),
    }
    if metrics is not None:
      # The manager keeps them in memory; a later start and `runner eval` need them on disk.
      items[METRICS] = ocp.args.JsonSave(metrics)
    saved = self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
    if not saved:
      raise RuntimeError(
        f"the checkpoint of step {step} was refused: {self._directory} holds step "
        f"{self._manager.latest_step()} already"
      )

  def restore_latest(
    self, abstract: TrainState, check: Callable[[dict[str, Any]], None] = lambda run: None
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint that can be read, laid out as `abstract` says; None without any.

    One that cannot be read is named and passed over for the one before it. `check` sees what
    was saved beside the state before the state is read, and raises UserError to refuse it.
    """
    failures = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        run = self._restore_item(step, RUN, ocp.args.JsonRestore())
        check(run)
        state = self._restore_item(step, STATE, ocp.args.StandardRestore(abstract))
      except UserError:
        raise
      except (ValueError, OSError, KeyError) as error:
        failures.append(step)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        logging.warning("Checkpoint %d cannot be read and is passed over: %s", step, reason)
        continue
      for failed in failures:
        # Its number must be free to be saved again; its bytes may still be of use.
        folder = self._directory / str(failed)
        folder.rename(folder.with_name(f"{failed}.unreadable"))
      if failures:
        self._manager.reload()
      return state, run
    if failures:
      raise UserError(
        f"none of the checkpoints in {self._directory} can be read with this model "
        f"(steps {failures}); restore one from a backup, or start in another workdir"
      )
    return None

  def _restore_item(self, step: int, item: str, how: Any) -> Any:
    return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]

  def wait(self) -> None:
    """Until what was started is on disk; raises what went wrong."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def _preservation(policy: Checkpoints) -> Any:
  reasons: list[Any] = [checkpoint_managers.LatestN(policy.keep_latest)]
  if policy.keep_every:
    reasons.append(checkpoint_managers.EveryNSteps(policy.keep_every))
  if policy.keep_best:
    # What an earlier start saved with another metric has not this one.
    worst = math.inf if policy.mode == "min" else -math.inf
    reasons.append(
      checkpoint_managers.BestN(
        n=policy.keep_best,
        get_metric_fn=lambda metrics: metrics.get(policy.metric, worst),
        # The last of the sorted ones are kept.
        reverse=policy.mode == "min",
        keep_checkpoints_without_metrics=False,
      )
    )
  return checkpoint_managers.AnyPreservationPolicy(reasons)


def restore_params(path: Path, abstract_params: Any) -> Any:
  """Only the parameters of the checkpoint folder `path`, laid out as `abstract_params`.

  Raises:
    UserError: a parameter is missing there, is not wanted here, or has another shape.
  """
  target = {"params": abstract_params}
  _check_shapes(path, _shapes(state_metadata(path)["params"]), _shapes(abstract_params))
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(
      path / STATE,
      args=ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  return restored["params"]


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every array."""
  return {name: tuple(leaf.shape) for name, leaf in named_arrays(params)}


def _check_shapes(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
  names = sorted(saved.keys() | wanted.keys())
  differing = [name for name in names if saved.get(name) != wanted.get(name)]
  if differing:
    listed = "; ".join(
      f"{name}: {saved.get(name, 'missing')} there, {wanted.get(name, 'none')} here"
      for name in differing[:5]
    )
    more = f"; and {len(differing) - 5} more" if len(differing) > 5 else ""
    raise UserError(f"the parameters of {path} do not fit this model: {listed}{more}")
