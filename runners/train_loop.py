"""The training loop: the parts of a step, and their order.

runners/training.py makes the parts that are called here.
"""

import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from input_pipelines.prefetch import GivenUp
from input_pipelines.progress import Progress
from runners.callbacks import Callback, Run, save_callbacks
from runners.checkpoints.writing import CheckpointWriter
from runners.evaluation import Evaluator
from runners.metrics.throughput import Throughput
from runners.metrics.writers import MultiWriter
from runners.processes.signals import Interruption
from runners.train_state import TrainState

_IN_FLIGHT = 2  # steps dispatched ahead of the device: enough to keep it busy


class TrainLoop:
  """Runs a state from its step to the end of the run.

  Order within a step (tests/runners/test_train_loop.py pins it down):

    1. callbacks' on_step_start; every hook in list order
    2. the next batch is drawn, and the update dispatched
    3. every log_every steps the sums of the interval are fetched: the only wait for the device
    4. every eval_every steps, and after the last, the evaluation sets, and callbacks' on_eval
    5. callbacks' on_step
    6. writers: one row with all scalars of the step, then its media
    7. the checkpoint: state, data position, callbacks' state
    8. the stop: last step, a callback's wish, or a signal; what is not saved yet is saved

  A signal during the wait for a batch ends the run before that step. A signal during an
  evaluation cuts it off: the state is saved, and a later start begins with that evaluation.

  So a checkpoint of step n exists only after row n is written, and a run restored at n draws
  batch n next: no row is lost, none comes twice.

  Args:
    train_step: (state, batch) -> (state, loss), jitted, donating the state.
    batches: an iterator of (n, device batch n) from the state's step on, with `last_wait_s`.
    fetch: (state) -> scalars of the interval, and the state with empty sums.
  """

  def __init__(
    self,
    run: Run,
    *,
    train_step: Callable[[TrainState, Any], tuple[TrainState, jax.Array]],
    batches: Any,
    fetch: Callable[[TrainState], tuple[dict[str, float], TrainState]],
    evaluator: Evaluator | Callable[[Any, Any], dict[str, float]],
    callbacks: Sequence[Callback],
    writer: MultiWriter,
    checkpoints: CheckpointWriter,
    throughput: Throughput,
    log_every: int,
    eval_every: int | None,
  ):
    self._run, self._train_step, self._batches = run, train_step, batches
    self._fetch, self._evaluator, self._callbacks = fetch, evaluator, callbacks
    self._writer, self._checkpoints, self._throughput = writer, checkpoints, throughput
    self._log_every, self._eval_every = log_every, eval_every
    self._compiled = False
    self._saved_step = run.step
    self._in_flight: collections.deque[jax.Array] = collections.deque()
    self._held: TrainState | None = None  # None while a step has it

  def __call__(self, state: TrainState, interruption: Interruption) -> TrainState:
    run = self._run
    self._throughput.pause()  # until the first step is compiled
    self._held = state
    try:
      self._call("on_start", state)
      with contextlib.suppress(GivenUp):  # whatever can be saved has been
        if run.owed is not None:
          self._tell(state, self._evaluated(state, run.owed))
        while run.step < run.num_steps and not run.stop_reason:
          state = self._update(state)
          state, scalars = self._observe(state)
          self._held = state
          self._tell(state, scalars)
          ending = run.step == run.num_steps or run.stop_reason or interruption.signal
          if ending or self._checkpoints.due(run.step):
            self._save(state, scalars)
          if ending:
            break
      self._checkpoints.wait()
    finally:
      with contextlib.ExitStack() as stack:  # all are called, even if one raises
        stack.callback(self._writer.flush)
        for callback in reversed(self._callbacks):
          stack.callback(self._call_one, callback, "on_end", self._held)
    return state

  def _call(self, hook: str, state: TrainState, *arguments: Any) -> None:
    for callback in self._callbacks:
      self._call_one(callback, hook, state, *arguments)

  def _call_one(self, callback: Callback, hook: str, state: Any, *arguments: Any) -> None:
    with self._run.lend(state, callback, hook):
      getattr(callback, hook)(self._run, *arguments)

  def _update(self, state: TrainState) -> TrainState:
    self._call("on_step_start", state)
    try:
      _, batch = next(self._batches)
    except GivenUp:
      self._save(state, {})
      raise
    self._held = None
    if self._compiled:
      state, loss = self._train_step(state, batch)
      self._throughput.step(self._batches.last_wait_s)
      self._in_flight.append(loss)
    else:  # the first step compiles, so it does not count for the speed
      with Progress("compiling the training step"):
        state, loss = self._train_step(state, batch)
        loss.block_until_ready()
      self._throughput.resume()
      self._compiled = True
    if len(self._in_flight) > _IN_FLIGHT:
      self._in_flight.popleft().block_until_ready()
    self._run.step += 1
    return state

  def _observe(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """The scalars of the step; none unless it is logged or evaluated."""
    step, last = self._run.step, self._run.step == self._run.num_steps
    scalars: dict[str, float] = {}
    if step % self._log_every == 0 or last:
      fetched, state = self._fetch(state)
      scalars |= fetched | self._throughput.scalars()
    if last or (self._eval_every and step % self._eval_every == 0):
      scalars = self._evaluated(state, scalars)
    return state, scalars

  def _evaluated(self, state: TrainState, scalars: dict[str, float]) -> dict[str, float]:
    """The step's scalars with its evaluation's; if that is cut off, `run.owed` keeps them."""
    self._throughput.pause()
    try:
      found = self._evaluator(state.params, state.variables)
    except GivenUp:
      self._run.owed = scalars
      self._save(state, scalars)
      raise
    self._run.owed = None
    self._call("on_eval", state, found)
    self._throughput.resume()
    return scalars | found

  def _tell(self, state: TrainState, scalars: dict[str, float]) -> None:
    self._call("on_step", state, scalars)
    if scalars:
      self._writer.write(self._run.step, scalars)
    if media := self._run.take_media():
      self._writer.write_media(self._run.step, media)

  def _save(self, state: TrainState, scalars: dict[str, float]) -> None:
    step = self._run.step
    if step == self._saved_step:
      return
    self._throughput.pause()
    run = {
      "data": {
        "batch": step,
        "content": self._run.data_content,
        **self._run.position(step),
      },
      "callbacks": save_callbacks(self._callbacks),
    }
    if self._run.owed is not None:
      run["owed"] = self._run.owed
    self._checkpoints.save(step, state, run, scalars)
    self._saved_step = step
    self._throughput.resume()
