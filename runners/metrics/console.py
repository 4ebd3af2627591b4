"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax

from input_pipelines import progress
from runners.metrics.throughput import speed

# Metric -> printed name and format. Other metrics are printed under their own names.
_FORMATS = {
  "learning_rate": ("lr", "{:.2e}"),
  "bits_per_byte": ("bits/byte", "{:.4f}"),
  "loss": ("loss", "{:.4f}"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Console:
  """Writes to standard output."""

  def open(self, workdir: str, num_steps: int | None) -> "PlainWriter | LiveWriter":
    del workdir  # the console writes no file
    if sys.stdout.isatty():
      return LiveWriter(num_steps, sys.stdout)
    return PlainWriter(num_steps, sys.stdout)


class PlainWriter:
  """One line per log and one per evaluation: for files, pipes and CI."""

  def __init__(self, num_steps: int | None, file: TextIO):
    self._num_steps = num_steps
    self._file = file

  def resume(self, step: int) -> None:
    """What was printed stays printed."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    for line in lines(step, self._num_steps, scalars):
      print(line, file=self._file, flush=True)

  def flush(self) -> None:
    self._file.flush()

  def close(self) -> None:
    self.flush()


class LiveWriter:
  """A rich progress bar with the last logged numbers beside it; evaluations scroll by above.

  It appears with the first metrics, so that earlier errors print on a plain terminal.
  """

  def __init__(self, num_steps: int | None, file: TextIO):
    self._num_steps = num_steps
    self._file = file
    self._stack = contextlib.ExitStack()
    self._progress: Any = None
    self._task: Any = None

  def resume(self, step: int) -> None:
    """What was printed stays printed."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._progress is None:
      self._progress = self._stack.enter_context(_progress(self._file))
      self._stack.enter_context(progress.shared(self._progress))
      self._task = self._progress.add_task("train", total=self._num_steps, figures="")
    for line in evaluation_lines(step, scalars):
      self._progress.console.print(line, highlight=False, markup=False)
    figures = "  ".join(_live_figures(step, self._num_steps, scalars))
    if figures:
      self._progress.update(self._task, completed=step, figures=figures)

  def flush(self) -> None:
    if self._progress is not None:
      self._progress.refresh()

  def close(self) -> None:
    if self._progress is not None:
      self._stack.close()
      self._progress = None


def _progress(file: TextIO) -> Any:
  # rich takes a tenth of a second to import: only for a terminal.
  from rich import console, table
  from rich import progress as bars

  return bars.Progress(
    bars.MofNCompleteColumn(table_column=table.Column(no_wrap=True)),
    bars.TextColumn("{task.fields[figures]}", markup=False),
    bars.BarColumn(bar_width=20),  # the first to shrink
    console=console.Console(file=file),
  )


def lines(step: int, num_steps: int | None, scalars: Mapping[str, float]) -> Iterator[str]:
  """The scalars of one step as text: a line for training and one for each evaluation."""
  figures = "  ".join(_figures(step, num_steps, scalars))
  if figures:
    yield f"step {step}{f'/{num_steps}' if num_steps else ''}  {figures}"
  yield from evaluation_lines(step, scalars)


def evaluation_lines(step: int, scalars: Mapping[str, float]) -> Iterator[str]:
  """One line for each evaluated data set: `step 200  validation  loss 1.8808  ...`."""
  evaluations: dict[str, list[str]] = {}
  for key, value in scalars.items():
    kind, _, rest = key.partition("/")
    if kind == "eval":
      name, _, metric = rest.rpartition("/")
      evaluations.setdefault(name, []).append(_figure(metric, value))
  for name, figures in evaluations.items():
    yield f"step {step}  {name}  {'  '.join(figures)}"


def _figures(step: int, num_steps: int | None, scalars: Mapping[str, float]) -> Iterator[str]:
  """The training scalars as texts; none for a step that was only evaluated."""
  for key, value in scalars.items():
    kind, _, metric = key.partition("/")
    if kind == "train":
      yield _figure(metric, value)
  if "perf/step_ms" in scalars:
    yield from _speed(scalars)
    yield f"{scalars['perf/step_ms']:.0f} ms/step"
    if num_steps:
      yield f"eta {_time_left(num_steps - step, scalars)}"


def _live_figures(
  step: int, num_steps: int | None, scalars: Mapping[str, float]
) -> Iterator[str]:
  """The training scalars that fit beside the bar in 80 columns."""
  if "train/loss" in scalars:
    yield _figure("loss", scalars["train/loss"])
  if "perf/step_ms" in scalars:
    yield from _speed(scalars)
    if num_steps:
      yield f"eta {_time_left(num_steps - step, scalars)}"


def _speed(scalars: Mapping[str, float]) -> Iterator[str]:
  if (found := speed(scalars)) is not None:
    count, units = found
    yield f"{_short(count)} {units}/s"
  if "perf/mfu" in scalars:
    yield f"mfu {scalars['perf/mfu']:.1%}"
  elif jax.default_backend() != "cpu":  # MFU means nothing on a CPU
    yield "mfu n/a"
  yield f"data wait {scalars['perf/data_wait']:.1%}"


def _time_left(steps: int, scalars: Mapping[str, float]) -> str:
  """Time for `steps` steps at the speed of the last interval, without evaluations."""
  return progress.duration(steps * scalars["perf/step_ms"] / 1e3)


def _figure(metric: str, value: float) -> str:
  """`learning_rate/generator` reads as `lr/generator`."""
  metric, slash, label = metric.partition("/")
  name, form = _FORMATS.get(metric, (metric, "{:.4g}"))
  return f"{name}{slash}{label} {form.format(value)}"


def _short(count: float) -> str:
  """A short text for a count, such as 12.3k for 12345.0."""
  for unit in ("", "k", "M"):
    if abs(count) < 999.5:
      return f"{count:.3g}{unit}"
    count /= 1e3
  return f"{count:.3g}G"
