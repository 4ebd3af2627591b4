"""Callbacks: hooks that an experiment may add to the loop, called in a fixed order.

The loop (runners/train_loop.py) calls `on_step` after each step, callbacks in list order, when
the scalars of the step are known and before they are written and the state is saved. So scalars
added by a callback are written, and a run restored at that step does not see the step again.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax

from layers.errors import GENTLER, Diverged, UserError
from layers.ranges import NonNegativeFloat, PositiveInt
from layers.suggestions import did_you_mean
from runners.lent_state import COPY, LentState
from runners.metrics.media import Medium, as_medium

# A signal may end a step before its row, and a restart does not repeat on_step_start.
_WITHOUT_ROW = ("on_step_start", "on_end")
_GONE = ("Array has been deleted", "Buffer has been deleted")  # what jax says


@dataclasses.dataclass
class Run:
  """A callback's view of the run, and its requests to it.

  Attributes:
    workdir: the run's folder.
    num_steps: the last step.
    data_content: the name of the training data's content, see Batches.content.
    step: steps done.
    stop_reason: set by `stop`; the loop ends after saving the current step.
    position: step -> the data position to save beside the batch number.
    owed: the current step's scalars, if a signal cut its evaluation off. A restart begins with
      that evaluation, before callbacks and writers see the step.
    metrics: names of scalars that a step may lack although their kind is logged, if it had
      nothing to measure them on, such as a batch without loss weights.
  """

  workdir: str
  num_steps: PositiveInt
  data_content: str = ""
  step: int = 0
  stop_reason: str | None = None
  position: Callable[[int], dict[str, int]] = lambda step: {}
  metrics: frozenset[str] = frozenset()
  owed: dict[str, float] | None = None

  def __post_init__(self) -> None:
    self._lent: LentState | None = None
    self._media: dict[str, Medium] = {}
    self._hook = ""  # that is being called

  @property
  def state(self) -> LentState:
    """The state after `step` steps, readable only within a hook: see LentState."""
    if self._lent is None:
      raise UserError("run.state can be read within a callback's hook, and nowhere else")
    return self._lent

  def write_media(self, name: str, value: str | Medium) -> None:
    """Gives a text, Image or Histogram (runners/metrics/media.py) to each writer that takes it.

    It belongs to the current step's row (in `on_start`, the first step's), and is written after
    that row and before the checkpoint, so that a continued run writes none twice.

    Raises:
      UserError: another type of value, a name used twice in a row, or a hook without a row.
    """
    if self._hook in _WITHOUT_ROW:
      raise UserError(f"write_media({name!r}) in {self._hook}, which has no row: use on_step")
    if name in self._media:
      raise UserError(f"write_media({name!r}): two media of this name for one step")
    self._media[name] = as_medium(name, value)

  def take_media(self) -> dict[str, Medium]:
    """For the loop: removes and returns the media to write with this step's row."""
    media, self._media = self._media, {}
    return media

  @contextlib.contextmanager
  def lend(self, state: Any, callback: "Callback", hook: str) -> Iterator[None]:
    """For the loop: in the `with` block, this hook of the callback can read `state`."""
    who = f"{type(callback).__name__}.{hook}"
    lent = self._lent = LentState(state, f"{who} at step {self.step}")
    self._hook = hook
    try:
      yield
      lent.check()
    except (RuntimeError, ValueError) as error:  # jax raises either for a deleted buffer
      if not any(words in str(error) for words in _GONE):
        raise
      raise UserError(
        f"{who} reads an array that it kept of an earlier run.state, whose buffers a later "
        f"step has: {COPY}"
      ) from error
    finally:
      self._lent, self._hook = None, ""
      lent.take_back()

  @property
  def is_over(self) -> bool:
    """Whether the run has nothing left to do."""
    return self.step >= self.num_steps and self.owed is None

  def stop(self, reason: str) -> None:
    """Ends the run after this step, saved and reported with `reason`."""
    self.stop_reason = self.stop_reason or reason


class Callback:
  """Override what you need. `state` and `restore` make a callback survive a restart.

  For each step the loop calls `on_step_start`, `on_eval` (if it is evaluated) and `on_step`.
  Each hook is called for all callbacks, in list order, before the next hook.
  """

  def on_start(self, run: Run) -> None:
    """Before the first step, after a restore."""

  def on_step_start(self, run: Run) -> None:
    """Before step `run.step + 1`, whose batch is not drawn yet."""

  def on_eval(self, run: Run, scalars: dict[str, float]) -> None:
    """After an evaluation of step `run.step`; `scalars` are its own, `eval/<name>/<metric>`."""

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    """After step `run.step`; `scalars` is empty unless something was logged or evaluated."""

  def on_end(self, run: Run) -> None:
    """After the last step, also when the run ends by an error."""

  def state(self) -> dict[str, Any]:
    """The state to save, as JSON."""
    return {}

  def restore(self, state: dict[str, Any]) -> None:
    """Restores the value that `state` returned."""


def save_callbacks(callbacks: Sequence[Callback]) -> list[Any]:
  """(class name, state) for each callback, as JSON."""
  return [[type(callback).__name__, callback.state()] for callback in callbacks]


def restore_callbacks(callbacks: Sequence[Callback], saved: Sequence[Any]) -> None:
  """Gives each callback the next saved state of its class; one without a state starts fresh."""
  left = [tuple(entry) for entry in saved]
  for callback in callbacks:
    entry = next((entry for entry in left if entry[0] == type(callback).__name__), None)
    if entry is not None:
      left.remove(entry)
      try:
        callback.restore(entry[1])
      except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
          f"what the checkpoint holds of the callback {entry[0]} is not what it saves "
          f"({type(error).__name__}: {error}): remove it from callbacks, or start anew"
        ) from error


def _value(metric: str, run: Run, scalars: dict[str, float]) -> float | None:
  """The metric's value; None on a step without its kind, or with nothing to measure it on.

  Raises UserError if its kind (`train`, `eval`) is logged without it: the callback would never
  act.
  """
  kind = metric.partition("/")[0] + "/"
  if (
    metric in scalars
    or metric in run.metrics
    or not any(name.startswith(kind) for name in scalars)
  ):
    return scalars.get(metric)
  raise UserError(f"a callback watches {metric!r}, not there: {did_you_mean(metric, scalars)}")


@dataclasses.dataclass
class EarlyStopping(Callback):
  """Ends the run when a metric has not improved for `patience` evaluations.

  Attributes:
    metric: the scalar to watch.
    patience: the run ends after so many evaluations without improvement.
    min_delta: the least change that counts as an improvement.
    mode: whether smaller ("min") or larger ("max") is better.
  """

  metric: str = "eval/validation/loss"
  patience: PositiveInt = 5
  min_delta: NonNegativeFloat = 0.0
  mode: Literal["min", "max"] = "min"

  def __post_init__(self):
    self._best: float | None = None
    self._bad = 0

  def on_start(self, run: Run) -> None:
    self._judge(run)  # if it had ended the run, a new start ends at once

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    if (value := _value(self.metric, run, scalars)) is None:
      return
    value *= 1 if self.mode == "min" else -1
    if self._best is None or math.isnan(self._best) or value < self._best - self.min_delta:
      self._best, self._bad = value, 0
    else:
      self._bad += 1
    self._judge(run)

  def _judge(self, run: Run) -> None:
    if self._bad >= self.patience:
      run.stop(f"{self.metric} has not improved for {self._bad} evaluations")

  def state(self) -> dict[str, Any]:
    return {"best": self._best, "bad": self._bad}

  def restore(self, state: dict[str, Any]) -> None:
    best, bad = state["best"], state["bad"]
    self._best, self._bad = None if best is None else float(best), int(bad)


@dataclasses.dataclass
class StopOnNonFinite(Callback):
  """Fails when a metric is logged as NaN or infinite, before that state is saved."""

  metrics: Sequence[str] = ("train/loss", "train/grad_norm")

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    for name in self.metrics:
      value = _value(name, run, scalars)
      if value is not None and not math.isfinite(value):
        where = f"{name} is {value} at step {run.step}: nothing is saved from here"
        raise Diverged(f"{where}. {GENTLER}")


@dataclasses.dataclass
class Profile(Callback):
  """Traces a few steps with jax.profiler into workdir/profile (open it with TensorBoard).

  Attributes:
    start: steps after which the trace begins, counted from the (re)start of the process, so
      that compilation is not in it.
    num_steps: how many steps it covers.
  """

  start: PositiveInt = 10
  num_steps: PositiveInt = 5

  def __post_init__(self):
    self._seen = 0
    self._tracing = False

  def on_step(self, run: Run, scalars: dict[str, float]) -> None:
    self._seen += 1
    if self._seen == self.start:
      jax.profiler.start_trace(f"{run.workdir}/profile")
      self._tracing = True
    elif self._seen == self.start + self.num_steps:
      self._finish()

  def on_end(self, run: Run) -> None:
    self._finish()

  def _finish(self) -> None:
    if self._tracing:
      jax.profiler.stop_trace()
      self._tracing = False
