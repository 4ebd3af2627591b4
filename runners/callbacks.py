"""What an experiment may hang on the loop: hooks, in an order that is law.

The loop (runners/train_loop.py) calls `on_step` after each step, callbacks in list order, when
the scalars of the step are known and before they are written and the state is saved. So what
a callback adds is written, and a run restored at that step does not see the step again.
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

# A signal may cut a step off before its row, and its on_step_start is not called again then.
_WITHOUT_ROW = ("on_step_start", "on_end")
_GONE = ("Array has been deleted", "Buffer has been deleted")  # what jax says


@dataclasses.dataclass
class Run:
  """What callbacks see of the run, and what they may ask of it.

  Attributes:
    workdir: where the run lives.
    num_steps: where it ends.
    data_content: names the training data, see Batches.content.
    step: steps done.
    stop_reason: set by `stop`; the loop ends after saving the step at hand.
    position: what is to be saved of the data's position after a step, beside its batch.
    owed: the scalars of the step at hand where a signal cut its evaluation off: it comes first
      when the run goes on, before callbacks and writers see the step.
    metrics: names of scalars that a step may lack although their kind is logged: it had nothing
      to measure them on, such as a batch without loss weights.
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
    """The state after `step` steps, to be read within a hook alone: see LentState."""
    if self._lent is None:
      raise UserError("run.state can be read within a callback's hook, and nowhere else")
    return self._lent

  def write_media(self, name: str, value: str | Medium) -> None:
    """Has every writer that can write a text, Image or Histogram (runners/metrics/media.py).

    It belongs to the row of the step at hand, in `on_start` of the first one, and is written
    after that row and before the checkpoint: a run that goes on writes none twice.

    Raises:
      UserError: another value, a name that the row has already, or a hook that has no row.
    """
    if self._hook in _WITHOUT_ROW:
      raise UserError(f"write_media({name!r}) in {self._hook}, which has no row: use on_step")
    if name in self._media:
      raise UserError(f"write_media({name!r}): two media of this name for one step")
    self._media[name] = as_medium(name, value)

  def take_media(self) -> dict[str, Medium]:
    """For the loop: what waits to be written with the row of this step."""
    media, self._media = self._media, {}
    return media

  @contextlib.contextmanager
  def lend(self, state: Any, callback: "Callback", hook: str) -> Iterator[None]:
    """For the loop: `state` can be read within, by this hook of the callback."""
    who = f"{type(callback).__name__}.{hook}"
    lent = self._lent = LentState(state, f"{who} at step {self.step}")
    self._hook = hook
    try:
      yield
      lent.check()
    except (RuntimeError, ValueError) as error:  # jax has both for a buffer that is gone
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
    """Whether nothing is left to do."""
    return self.step >= self.num_steps and self.owed is None

  def stop(self, reason: str) -> None:
    """Ends the run after this step, saved and reported with `reason`."""
    self.stop_reason = self.stop_reason or reason


class Callback:
  """Override what you need. `state` and `restore` make a callback survive a restart.

  Of a step come `on_step_start`, `on_eval` where it is evaluated, `on_step`: each hook of all
  callbacks before the next hook of any, in list order.
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
    """What to save, as JSON."""
    return {}

  def restore(self, state: dict[str, Any]) -> None:
    """Takes back what `state` gave."""


def save_callbacks(callbacks: Sequence[Callback]) -> list[Any]:
  """The state of each with the name of its class, as JSON."""
  return [[type(callback).__name__, callback.state()] for callback in callbacks]


def restore_callbacks(callbacks: Sequence[Callback], saved: Sequence[Any]) -> None:
  """Gives each the state of the first of its class not given yet; a new one begins anew."""
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
  """The metric, or None on a step that has none of its kind, or nothing to measure it on.

  UserError where its kind (`train`, `eval`) is there without it: nothing would ever happen.
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
    patience: evaluations without improvement that are tolerated.
    min_delta: what counts as an improvement.
    mode: whether smaller or larger is better.
  """

  metric: str = "eval/validation/loss"
  patience: PositiveInt = 5
  min_delta: NonNegativeFloat = 0.0
  mode: Literal["min", "max"] = "min"

  def __post_init__(self):
    self._best: float | None = None
    self._bad = 0

  def on_start(self, run: Run) -> None:
    self._judge(run)  # a run that it ended stays ended when it is started again

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
