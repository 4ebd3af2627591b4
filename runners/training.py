"""`runner train`: turns a config and a workdir into a finished, or further advanced, run."""

import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fiddle as fdl
import jax
import numpy as np

from input_pipelines.batches import same_content
from input_pipelines.prefetch import Prefetch
from input_pipelines.token_store import default_cache_dir
from layers.errors import Diverged, UserError
from layers.notices import heard, note
from runners import data_position, gin_record
from runners.array_names import named_arrays
from runners.assembly import Assembly, assemble
from runners.callbacks import Run, restore_callbacks
from runners.checkpoints.damage import listed
from runners.checkpoints.fallback import restore_newest
from runners.checkpoints.finiteness import non_finite
from runners.checkpoints.folders import CHECKPOINTS, saved_steps
from runners.checkpoints.saved_run import check_saved_run
from runners.checkpoints.writing import IMPORTED, CheckpointWriter
from runners.devices.flops import peak_flops
from runners.devices.meshes import place
from runners.interchange.init_from import check_source
from runners.interchange.warm_start import warm_state
from runners.metrics.throughput import Throughput
from runners.metrics.writers import MultiWriter, open_writers
from runners.processes import compilation_cache, host_allocator
from runners.processes.signals import Interruption, leave
from runners.short_runs import note_short_run
from runners.train_loop import TrainLoop
from runners.train_state import TrainState
from runners.workdir import Workdir
from tasks.weighted_metrics import means, measured, metric_names, report_names


def train(
  config: fdl.Config,
  exp: str,
  workdir: str,
  provenance: Sequence[Any] = (),
  accept_changes: Sequence[str] = (),
  cache_dir: str | None = None,
) -> int:
  """Trains until done or told to stop, continuing where an earlier start left off.

  Args:
    config: a resolved config of a Trainer.
    exp: the experiment's name, for the record.
    workdir: the run's folder.
    provenance: JSON for run.json: which override set which field.
    accept_changes: config paths that may differ from the workdir's.
    cache_dir: for token stores and compiled programs.

  Returns:
    The exit code: 0, or 143/130 after a signal.

  Raises:
    UserError: before anything is written, unless the workdir is at fault.
  """
  started = time.perf_counter()
  host_allocator.share_one_arena()
  cache_dir = cache_dir or default_cache_dir()
  compilation_cache.enable(cache_dir)
  if jax.default_backend() == "cpu":
    host_allocator.keep_freed_memory()
  if jax.process_count() > 1:
    raise UserError(
      f"a run is one process, and this is one of {jax.process_count()}: start it without "
      "jax.distributed, on one machine"
    )
  with contextlib.ExitStack() as stack:
    notes = stack.enter_context(heard())
    if config.init_from and not (Path(workdir) / CHECKPOINTS).is_dir():
      check_source(config.init_from)  # only a fresh run needs it
    hold = lambda: stack.enter_context(
      contextlib.closing(Workdir(workdir, config, exp, accept_changes))
    )
    # A run that cannot continue is refused before hours go into token stores. A new folder is
    # created only for a valid config.
    folder = hold() if Path(workdir).is_dir() else None
    assembly = assemble(config, cache_dir)
    note_short_run(config, assembly.num_steps)
    folder = folder or hold()
    assembly, state, run = _start(assembly, folder, "train_data" not in accept_changes)
    began, facts = run.step, _facts(assembly)
    folder.record({**facts, "overrides": list(provenance)})
    gin_record.save(folder.path, assembly.data)
    _announce(exp, facts, run, assembly.trainer.train_data.units)
    interruption = _interruption(run)
    if not run.is_over:
      stack.enter_context(interruption)  # from here on there is something to save
    with _saying_what_is_left(folder.path):
      _go_on(assembly, state, run, interruption, folder.fields)
    folder.record_end(
      step=run.step,
      finished=run.is_over or run.stop_reason is not None,
      seconds=time.perf_counter() - started,
      notes=notes,
    )
  print(_ending(run, began, interruption, time.perf_counter() - started), flush=True)
  return interruption.exit_code


@contextlib.contextmanager
def _saying_what_is_left(workdir: Path) -> Iterator[None]:
  """Adds to a diverged run's message the checkpoint from which it could continue."""
  try:
    yield
  except Diverged as error:
    kept = saved_steps(workdir / CHECKPOINTS)
    left = f"The checkpoint of step {kept[-1]} is intact" if kept else "No checkpoint was saved"
    raise Diverged(f"{error}. {left}") from error


def _go_on(
  assembly: Assembly,
  state: TrainState,
  run: Run,
  interruption: Interruption,
  fields: Mapping[str, str],
) -> None:
  """Runs to the end, and closes everything it opened, whatever happens."""
  with contextlib.ExitStack() as stack:
    writer = stack.enter_context(_writers(assembly, run))
    checkpoints = CheckpointWriter(
      Path(run.workdir) / CHECKPOINTS,
      assembly.trainer.checkpoints,
      assembly.initializer.unpadded(),
      before=writer.settle,
      config=fields,
      infinite=lambda: assembly.initializer.infinite,
    )
    stack.enter_context(checkpoints)
    prefetch = Prefetch(
      assembly.batches,
      start=run.step,
      transfer=lambda batch: place(batch, assembly.batch_sharding),
      give_up=lambda: interruption.signal is not None,
    )
    stack.enter_context(prefetch)
    loop = _loop(assembly, run, prefetch, writer, checkpoints, interruption)
    if not run.is_over:
      loop(state, interruption)


def _start(
  assembly: Assembly, folder: Workdir, check_data: bool
) -> tuple[Assembly, TrainState, Run]:
  """Restores the newest checkpoint, or makes a fresh state, perhaps from another run.

  Returns:
    The assembly, continued from the state's step; the state; and the run.
  """
  trainer, content, workdir = assembly.trainer, assembly.batches.content, folder.path
  run = Run(str(workdir), assembly.num_steps, content, metrics=_metrics(assembly))

  def check(saved: dict[str, Any]) -> None:
    if IMPORTED in saved:
      raise UserError(
        f"{workdir} holds imported parameters, no run to go on with: train in another "
        f"--workdir with --set=init_from={workdir}"
      )
    check_saved_run(saved)
    if check_data and not same_content(saved["data"]["content"], content):
      raise UserError(
        f"the training data of {workdir} have changed since its checkpoint; put back the text "
        "as it was, choose another --workdir, or accept with --accept_change=train_data"
      )
    data_position.check_length(saved["data"], folder.before, trainer.sequence_length, workdir)

  initializer = assembly.initializer
  abstract, unpadded = initializer.abstract, initializer.unpadded()
  infinite = lambda: initializer.infinite
  restored = restore_newest(workdir / CHECKPOINTS, abstract, unpadded, check, infinite)
  if restored is not None:
    state, saved = restored
    run.step, run.owed = saved["data"]["batch"], saved.get("owed")
    assembly = data_position.go_on(assembly, saved["data"], folder.before)
    assembly.logged_rows.forget()
    restore_callbacks(assembly.callbacks, saved["callbacks"])
  elif trainer.init_from:
    state, saved = warm_state(trainer.init_from, trainer.model, initializer)
    wrong, _ = non_finite(dict(named_arrays(state)), infinite)
    if wrong:
      raise UserError(
        f"init_from: {len(wrong)} arrays there are not finite ({listed(wrong)}): name another "
        "step, or another run"
      )
    if saved is not None:
      assembly = _take_over(assembly, run, saved)
  else:
    state = initializer.init()
  run.num_steps = assembly.num_steps
  run.position = functools.partial(data_position.describe, assembly)
  return assembly, state, run


def _metrics(assembly: Assembly) -> frozenset[str]:
  """The names of all metrics, which a step logs if it has something to measure them on."""
  reports = assembly.initializer.abstract.metrics.reports
  names = [*metric_names(assembly.trainer.objective), *report_names(reports)]
  kinds = ["train", *(f"eval/{name}" for name in assembly.eval_batches)]
  return frozenset(f"{kind}/{name}" for kind in kinds for name in names)


def _take_over(assembly: Assembly, run: Run, saved: dict[str, Any]) -> Assembly:
  """Takes over the data position and callbacks of a run that this one continues elsewhere."""
  check_saved_run(saved)
  run.step = saved["data"]["batch"]
  if run.step >= run.num_steps:
    raise UserError(
      f"init_from: that run is at step {run.step} and this one ends at step {run.num_steps}: "
      "raise num_steps, or take its parameters alone (everything=False)"
    )
  if same_content(saved["data"]["content"], run.data_content):
    assembly = data_position.take_over(assembly, saved["data"])
  else:
    note(f"init_from: other training data, from batch {run.step} of them on.")
  restore_callbacks(assembly.callbacks[:-1], saved["callbacks"])  # its rows are elsewhere
  return assembly


def _writers(assembly: Assembly, run: Run) -> MultiWriter:
  writer = open_writers(
    assembly.trainer.writers, run.workdir, run.num_steps, process_index=jax.process_index()
  )
  writer.resume(run.step if run.owed is None else run.step - 1)  # else its row is made anew
  if (num_rows := writer.num_rows()) is not None:
    assembly.logged_rows.compare(num_rows, run.step)
  return writer


def _loop(
  assembly: Assembly,
  run: Run,
  prefetch: Prefetch,
  writer: MultiWriter,
  checkpoints: CheckpointWriter,
  interruption: Interruption,
) -> TrainLoop:
  trainer = assembly.trainer
  peak = peak_flops(jax.devices()[0].device_kind)
  return TrainLoop(
    run,
    train_step=assembly.train_step(),
    batches=prefetch,
    fetch=_fetcher(assembly),
    evaluator=assembly.evaluator(give_up=lambda: interruption.signal is not None),
    callbacks=assembly.callbacks,
    writer=writer,
    checkpoints=checkpoints,
    throughput=Throughput(
      units_per_step=trainer.units_per_step,
      units=trainer.train_data.units,
      flops_per_step=assembly.model_flops(),
      peak_flops=peak and peak * jax.device_count(),
    ),
    log_every=trainer.log_every,
    eval_every=trainer.eval_every,
  )


def _fetcher(assembly: Assembly):
  """(state) -> the interval's scalars, and the state with empty sums."""
  objective, initializer = assembly.trainer.objective, assembly.initializer
  empty = jax.jit(initializer.empty_metrics, out_shardings=initializer.shardings.metrics)

  def fetch(state: TrainState) -> tuple[dict[str, float], TrainState]:
    sums, step = jax.device_get((state.metrics, state.step))
    summary, _ = measured(objective, sums.objective)
    summary |= means(sums.reports)[0] | means(sums.statistics)[0]
    summary["grad_norm"] = float(sums.grad_norm.compute())
    for name, rate in assembly.learning_rates.items():
      summary[name] = float(np.asarray(rate(step - 1) if callable(rate) else rate))
    scalars = {f"train/{name}": value for name, value in summary.items()}
    return scalars, state.replace(metrics=empty())

  return fetch


def _facts(assembly: Assembly) -> dict[str, Any]:
  """Facts about the run for run.json and the first lines on the console."""
  device = jax.devices()[0]
  return {
    "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    "mesh": {axis: size for axis, size in assembly.mesh.shape.items() if size > 1},
    "parameters": assembly.initializer.num_params(),
    f"{assembly.trainer.train_data.units}_per_step": assembly.trainer.units_per_step,
    "num_steps": assembly.num_steps,
  }


def _announce(exp: str, facts: dict[str, Any], run: Run, units: str) -> None:
  mesh = ", ".join(f"{axis}={size}" for axis, size in facts["mesh"].items())
  print(f"experiment  {exp}  {facts['parameters']:,} parameters")
  print(f"devices     {facts['devices']}{'  mesh ' + mesh if mesh else ''}")
  print(f"workdir     {run.workdir}")
  start = f"step {run.step} of {run.num_steps}" if run.step else f"{run.num_steps} steps"
  print(f"training    {start}, {facts[f'{units}_per_step']:,} {units} each", flush=True)


def _interruption(run: Run) -> Interruption:
  """The run's handling of signals: the first saves and ends it, the second ends it at once."""

  def tell(number: int) -> None:
    print(f"runner: signal {number}: saving, then leaving", file=sys.stderr, flush=True)

  def insist(number: int) -> None:
    kept = saved_steps(Path(run.workdir) / CHECKPOINTS)
    saved = "no step is saved yet"
    if kept:
      saved = f"step {kept[-1]} is saved, and the same command goes on from there"
    left = f"runner: left at once at step {run.step}, by a second signal: {saved}"
    print(left, file=sys.stderr, flush=True)
    leave(number)

  return Interruption(tell=tell, insist=insist)


def _ending(run: Run, began: int, interruption: Interruption, seconds: float) -> str:
  """Lines on the outcome of this start, which began at step `began`, and the next command."""
  place = f"the run is at {run.workdir}"
  command = f"--workdir={shlex.quote(run.workdir)}"
  next_ = f"next: runner generate {command} --prompt='...', or runner eval {command}"
  if interruption.signal:
    what = f"stopped by signal {interruption.signal} at step {run.step}, saved"
    next_ = "next: the same command goes on from there"
  elif run.stop_reason:
    what = f"stopped at step {run.step}: {run.stop_reason}"
  elif began == run.step:
    return f"done: {run.step} steps, all of them before: nothing was trained; {place}\n{next_}"
  else:
    what = f"done: {run.step} steps"
  now = f", {run.step - began} of them now" if began else ""
  return f"{what}{now}; {seconds:.1f} s in all; {place}\n{next_}"
