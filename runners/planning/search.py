"""`runner plan --search`: finds the mesh, rematerialisation and microbatch for a topology.

Arithmetic discards meshes that cannot hold the state. For the others, simplest first, one step
is compiled: first with full recomputation and one row on each device, then with as many rows as
should fit, then with less recomputation. Candidates that fit are ranked by the bound of their
time (runners/planning/step_account.py): every kernel at the device's rates, and exchanges at
those of the links, which nothing hides.
"""

import collections
import dataclasses
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fiddle as fdl
import jax

from input_pipelines.progress import Progress, duration
from layers.errors import UserError
from layers.notices import heard
from runners.blueprint import Groundwork, draw, lay_ground
from runners.configs.tree import copy_config
from runners.devices.memory import bytes_per_device
from runners.devices.meshes import AXES, BATCH_AXES
from runners.model_traits import traits
from runners.planning.plan import CompileError, Plan, plan, usable_bytes
from runners.planning.tables import table
from runners.planning.topologies import Topology
from runners.processes import signals

# From the least memory to the least computation.
_REMAT = ("full", "save_attention", "minimal", "none")
_LONG = 32_768  # tokens; shorter rows are split over devices only if there are too few rows
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One layout of the run.

  Attributes:
    mesh: axis -> devices.
    remat: the model's remat policy; None: it has no such field.
    rows: rows of a microbatch on each device along the batch axes.
  """

  mesh: Mapping[str, int]
  remat: str | None
  rows: int

  @property
  def settings(self) -> dict[str, Any]:
    """Path -> value, for --set."""
    shards = math.prod(self.mesh[axis] for axis in BATCH_AXES)
    settings: dict[str, Any] = {f"mesh.{axis}": self.mesh[axis] for axis in AXES}
    if self.remat is not None:
      settings["model.remat"] = self.remat
    return settings | {"microbatch_size": self.rows * shards}

  def applied(self, config: fdl.Config) -> fdl.Config:
    """A copy of the config with the settings."""
    config = copy_config(config)
    for path, value in self.settings.items():
      *parents, name = path.split(".")
      node = getattr(config, parents[0]) if parents else config
      setattr(node, name, value)
    return config

  def __str__(self) -> str:
    mesh = " ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1)
    rows = self.settings["microbatch_size"]
    return f"{mesh or 'one device'} remat={self.remat} microbatch={rows}"


@dataclasses.dataclass(frozen=True)
class Tried:
  """A candidate and its plan.

  Attributes:
    seconds: bound of a step; None: speed unknown.
  """

  candidate: Candidate
  plan: Plan
  seconds: float | None

  @property
  def settings(self) -> dict[str, Any]:
    return self.candidate.settings


@dataclasses.dataclass(frozen=True)
class Found:
  """The result of a search.

  Attributes:
    ranked: candidates that fit, fastest first; too_large: candidates that do not fit or exceed
      the budget of collectives.
    failed: a line for each candidate that could not be compiled.
    num_untried: how many candidates were left.
    interrupted: whether Ctrl-C ended it.
  """

  ranked: Sequence[Tried]
  too_large: Sequence[Tried]
  failed: Sequence[str]
  num_untried: int
  interrupted: bool

  @property
  def best(self) -> Tried | None:
    return self.ranked[0] if self.ranked else None


def search(
  config: fdl.Config,
  exp: str,
  topology: Topology,
  seconds: float,
  tell: Callable[[str], None] | None = None,
) -> Found:
  """Tries candidates until time is up, two at a time if there are two cores.

  Args:
    config: a resolved config of a Trainer.
    exp: the experiment's name.
    topology: the devices.
    seconds: after these no new candidate is started.
    tell: called with a line for each compiled candidate.

  Raises:
    UserError: no mesh suits the model and the batch.
  """
  deadline = time.monotonic() + seconds
  jax.config.update("jax_platforms", "cpu")  # nothing here needs an accelerator
  ground = lay_ground(config)
  config = ground.config
  queue = collections.deque(_first(ground, topology))
  progress = Progress(f"trying meshes of {topology.name} for {duration(seconds)}", unit="tried")
  run = _Search(config, exp, topology, queue, deadline, tell, progress)
  interrupted = False
  workers = min(2, os.cpu_count() or 1)
  with progress, ThreadPoolExecutor(workers) as pool:
    try:
      for done in [pool.submit(run.work) for _ in range(workers)]:
        done.result()
    except BaseException as error:
      run.stop.set()
      if not isinstance(error, KeyboardInterrupt):
        raise
      interrupted = True
  fits = [one for one in run.tried if one.plan.fits and not one.plan.over_budget]
  return Found(
    ranked=sorted(fits, key=_rank),
    too_large=[one for one in run.tried if one not in fits],
    failed=run.failed,
    num_untried=len(queue),
    interrupted=interrupted,
  )


@dataclasses.dataclass
class _Search:
  """State shared by the worker threads of a search.

  Attributes:
    queue: candidates, the next one first.
    stop: set to end running compilations.
  """

  config: fdl.Config
  exp: str
  topology: Topology
  queue: collections.deque[Candidate]
  deadline: float
  tell: Callable[[str], None] | None
  progress: Progress

  def __post_init__(self):
    self.tried: list[Tried] = []
    self.failed: list[str] = []
    self.stop = threading.Event()
    self._lock = threading.Lock()

  def work(self) -> None:
    """Tries candidates until none is left, time is up, or the search is stopped."""
    while (candidate := self._take()) is not None:
      try:
        one = _try(candidate, self.config, self.exp, self.topology, self.stop)
      except (UserError, CompileError) as error:
        if not self.stop.is_set():
          self._note(f"{candidate}: {str(error).splitlines()[-1]}")
        continue
      self.progress.advance()
      with self._lock:
        self.tried.append(one)
        self.queue.extendleft(reversed([*_next(one, self.config)]))
        if self.tell:
          self.tell(_line(one, len(self.tried)))

  def _take(self) -> Candidate | None:
    with self._lock:
      is_over = time.monotonic() > self.deadline and bool(self.tried)
      if self.stop.is_set() or is_over or not self.queue:
        return None
      return self.queue.popleft()

  def _note(self, failure: str) -> None:
    with self._lock:
      self.failed.append(failure)


def _rank(one: Tried) -> tuple[float, ...]:
  """Sort key: time; if the device's speed is unknown, FLOPs, then bytes exchanged."""
  exchanged = sum(found.bytes for found in one.plan.collectives or ())
  return (one.seconds or math.inf, one.plan.hardware_flops_per_step, exchanged)


def ranking(found: Found) -> list[str]:
  """The table: candidates that fit, then those that do not."""
  seconds = ("products s", "memory s", "exchanges s", "step s at best")
  head: tuple[str, ...] = ("candidate", "peak GiB", "compute", *seconds)
  rows: list[tuple[str, ...]] = [head]
  for one in (*found.ranked, *found.too_large):
    peak, ratio = one.plan.bytes_per_device["peak"], one.plan.hardware_flops_per_step
    account = one.plan.account()
    parts = (
      (account and account.products) or _product_seconds(one.plan),
      account and account.memory,
      one.plan.exchange_seconds,
    )
    rows.append(
      (
        str(one.candidate),
        "?" if peak is None else f"{peak / _GIB:.2f}",
        f"{ratio / one.plan.flops_per_step:.2f} x",
        *map(_shown, parts),
        _verdict(one) or _shown(one.seconds),
      )
    )
  lines = [*table(rows), *(f"failed: {failure}" for failure in found.failed)]
  if found.num_untried:
    lines.append(f"{found.num_untried} more were not tried: give them time with --minutes")
  return lines


def _shown(seconds: float | None) -> str:
  return "n/a" if seconds is None else f"{seconds:.3g}"


def _line(one: Tried, number: int) -> str:
  peak = one.plan.bytes_per_device["peak"]
  size = "refused" if peak is None else f"{peak / _GIB:.2f} GiB"
  verdict = _verdict(one) or "fits"
  return f"{number:3} {one.candidate}: {size}, {verdict} ({one.plan.compile_seconds:.0f} s)"


def _verdict(one: Tried) -> str | None:
  """Why a candidate is not ranked; None if it is."""
  if not one.plan.fits:
    return "does not fit"
  return "over budget" if one.plan.over_budget else None


def _first(ground: Groundwork, topology: Topology) -> list[Candidate]:
  """For each suitable mesh, the candidate with the least memory.

  Raises:
    UserError: no mesh suits; the message says why the simplest does not.
  """
  config = ground.config
  remat = None if traits(config.model).remat is None else _REMAT[0]
  found, refusals = [], []
  for mesh in _meshes(config, topology):
    candidate = Candidate(mesh, remat, 1)
    refusal = _refusal(candidate, ground, topology)
    if refusal is None:
      found.append(candidate)
    else:
      refusals.append(f"{candidate}: {refusal}")
  if not found:
    why = (refusals or [f"batch_size={config.batch_size} rows cannot be split evenly"])[0]
    raise UserError(f"no mesh of {topology.num_devices} devices suits; {why}")
  return found


def _meshes(config: fdl.Config, topology: Topology) -> Iterator[dict[str, int]]:
  """Meshes that split the batch evenly, simplest first."""
  devices, rows = topology.num_devices, config.batch_size
  tensors = _powers(min(8, topology.devices_per_host))
  sequences = _powers(devices) if config.sequence_length >= _LONG else [1, 2, 4, 8]
  for tensor, sequence in sorted(itertools.product(tensors, sequences), key=math.prod):
    rest = devices // (tensor * sequence)
    if rest * tensor * sequence != devices or rows % rest:
      continue
    if sequence > 1 and config.sequence_length < _LONG and rows >= devices // tensor:
      continue
    for data in dict.fromkeys((1, rest // min(rest, topology.devices_per_host))):
      mesh = {"data": data, "fsdp": rest // data, "sequence": sequence, "expert": 1}
      yield {axis: (mesh | {"tensor": tensor})[axis] for axis in AXES}


def _powers(most: int) -> list[int]:
  return [2**n for n in range(most.bit_length())]


def _refusal(candidate: Candidate, ground: Groundwork, topology: Topology) -> str | None:
  """Why a candidate cannot work: an axis does not divide, or state and gradients do not fit."""
  signals.check()
  usable = usable_bytes(topology)
  with heard(aloud=False):  # no notes about meshes that are only examined
    try:
      changed = ground.changed(candidate.applied(ground.config))
      blueprint = draw(changed, changed.mesh.describe(topology.num_devices))
    except UserError as error:
      return str(error)
    state = blueprint.initializer.abstract
  held = bytes_per_device(state) + bytes_per_device(state.params)
  if usable is None or held < usable:
    return None
  return (
    f"parameters, moments and gradients take {held / _GIB:.1f} of {usable / _GIB:.1f} GiB: "
    "take more devices"
  )


def _try(
  candidate: Candidate,
  config: fdl.Config,
  exp: str,
  topology: Topology,
  stop: threading.Event,
) -> Tried:
  found = plan(candidate.applied(config), exp, topology, stop)
  return Tried(candidate, found, _bound(found))


def _next(one: Tried, config: fdl.Config) -> Iterator[Candidate]:
  """Candidates worth trying once this one is known to fit."""
  candidate, held = one.candidate, one.plan.bytes_per_device
  if not one.plan.fits or candidate.rows > 1:
    return
  if (rows := _rows_that_fit(one, config)) > 1:
    yield dataclasses.replace(candidate, rows=rows)
  place = _REMAT.index(candidate.remat) if candidate.remat in _REMAT else len(_REMAT)
  if place + 1 < len(_REMAT) and held["peak"] is not None:
    yield dataclasses.replace(candidate, remat=_REMAT[place + 1])


def _rows_that_fit(one: Tried, config: fdl.Config) -> int:
  """The most rows on a device that should fit and divide the batch.

  Assumes that activations grow in proportion to the rows.
  """
  held, usable = one.plan.bytes_per_device, one.plan.usable
  rows = config.batch_size // math.prod(one.candidate.mesh[axis] for axis in BATCH_AXES)
  activations, peak = held["activations"], held["peak"]
  if usable is None or not activations or peak is None:
    return 1
  most = 1 + (usable - peak) // activations
  return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)


def _bound(found: Plan) -> float | None:
  """Seconds of a step; where kernels or their rates are not known, products and exchanges."""
  account = found.account()
  if account is not None and account.bound is not None:
    return account.bound
  products = _product_seconds(found)
  return products and products + (found.exchange_seconds or 0.0)


def _product_seconds(found: Plan) -> float | None:
  return found.peak_flops and found.hardware_flops_per_step / (found.devices * found.peak_flops)
