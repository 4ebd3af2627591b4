"""Orbax checkpoints of everything that a run continues from.

A checkpoint is a folder checkpoints/<step> with the items

  state   the TrainState: parameters, optimizer, RNG key, sums of the current interval
  run     JSON: the data position, the callbacks' state, the experiment's name
  metrics JSON: the metric that decides which checkpoint is best, where it is known
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from layers.errors import UserError
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

  def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint that can be read, laid out as `abstract` says; None without any.

    One that cannot be read is named and passed over for the one before it.
    """
    failures = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, run = self.restore(step, abstract)
      except (ValueError, OSError, KeyError) as error:
        failures.append(step)
        reason = str(error).splitlines()[0]
        logging.warning("Checkpoint %d cannot be read and is passed over: %s", step, reason)
        continue
      for failed in failures:
        self._manager.delete(failed)  # its number must be free to be saved again
      return state, run
    if failures:
      raise UserError(
        f"none of the checkpoints in {self._directory} can be read with this model "
        f"(steps {failures}); restore one from a backup, or start in another workdir"
      )
    return None

  def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{STATE: ocp.args.StandardRestore(abstract), RUN: ocp.args.JsonRestore()}
      ),
    )
    return restored[STATE], restored[RUN]

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
  """Only the parameters of the checkpoint folder `path`, laid out as `abstract_params`."""
  target = {"params": abstract_params}
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(
      path / STATE,
      args=ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
  return jax.tree.map(lambda x: x, restored["params"])
