"""A TrainLoop around parts that only log what they are asked to do."""

import dataclasses

from input_pipelines.prefetch import GivenUp
from runners.callbacks import Callback, Run
from runners.metrics.throughput import Throughput
from runners.processes.signals import Interruption
from runners.train_loop import TrainLoop


@dataclasses.dataclass
class Log:
  """Every call of the loop to its parts, in order; the parts below write into it."""

  events: list

  def named(self, *names):
    return [event for event in self.events if event[0] in names]


@dataclasses.dataclass(frozen=True)
class FakeState:
  """`params` count updates; `sums` those since the last fetch. A donated state is dead."""

  params: int
  sums: int
  donated: set
  variables: tuple = ()

  def check(self):
    assert self not in self.donated, "a donated state was read"

  def __hash__(self):
    return id(self)


@dataclasses.dataclass
class FakeLoss:
  log: Log
  step: int

  def block_until_ready(self):
    self.log.events.append(("block", self.step))


class FakeBatches:
  last_wait_s = 0.0

  def __init__(self, log, start, given_up_at):
    self._log, self._n, self._given_up_at = log, start, given_up_at

  def __next__(self):
    if self._n == self._given_up_at:
      raise GivenUp
    n, self._n = self._n, self._n + 1
    self._log.events.append(("draw", n))
    return n, f"batch {n}"


@dataclasses.dataclass
class FakeCheckpoints:
  log: Log
  every: int | None

  def due(self, step):
    return self.every is not None and step % self.every == 0

  def save(self, step, state, run, scalars):
    state.check()
    self.log.events.append(("save", step, state.params, state.sums, run, dict(scalars)))

  def wait(self):
    self.log.events.append(("wait",))


@dataclasses.dataclass
class FakeWriter:
  log: Log

  def write(self, step, scalars):
    self.log.events.append(("write", step, dict(scalars)))

  def write_media(self, step, media):
    self.log.events.append(("media", step, list(media)))

  def flush(self):
    self.log.events.append(("flush",))


@dataclasses.dataclass
class Watcher(Callback):
  """Logs its hooks; does `at[step]` in on_step."""

  log: Log
  name: str = "watcher"
  at: dict = dataclasses.field(default_factory=dict)

  def on_start(self, run):
    self.log.events.append(("on_start", self.name))

  def on_step(self, run, scalars):
    self.log.events.append(("on_step", self.name, run.step, dict(scalars)))
    if run.step in self.at:
      self.at[run.step](run, scalars)

  def on_end(self, run):
    self.log.events.append(("on_end", self.name))

  def state(self):
    return {"name": self.name}


class Harness:
  """A TrainLoop around fakes; `__call__` runs it and returns the events."""

  def __init__(self):
    self.log = Log([])
    self.given_up_at = None
    self.gives_up = False
    self.interruption = Interruption()
    self.run = Run("workdir", 0, data_content="text")

  def watcher(self, name="watcher", **at):
    return Watcher(self.log, name, {int(step[1:]): act for step, act in at.items()})

  def __call__(self, *, num_steps=4, start=0, owed=None, every=None, callbacks=(), **cadence):
    self.run.num_steps, self.run.step, self.run.owed = num_steps, start, owed
    loop = TrainLoop(
      self.run,
      train_step=self._train_step,
      batches=FakeBatches(self.log, start, self.given_up_at),
      fetch=self._fetch,
      evaluator=self._evaluate,
      callbacks=callbacks,
      writer=FakeWriter(self.log),
      checkpoints=FakeCheckpoints(self.log, every),
      throughput=Throughput(units_per_step=1, clock=lambda: 0.0),
      **{"log_every": 100, "eval_every": None} | cadence,
    )
    self.final = loop(FakeState(start, 0, set()), self.interruption)
    return self.log

  def _train_step(self, state, batch):
    state.check()
    state.donated.add(state)
    self.log.events.append(("update", batch))
    state = FakeState(state.params + 1, state.sums + 1, state.donated)
    return state, FakeLoss(self.log, state.params)

  def _fetch(self, state):
    state.check()
    self.log.events.append(("fetch", state.params))
    return {"train/sums": state.sums}, dataclasses.replace(state, sums=0)

  def _evaluate(self, params, variables):
    if self.gives_up:
      raise GivenUp
    self.log.events.append(("evaluate", params))
    return {"eval/validation/loss": float(params)}
