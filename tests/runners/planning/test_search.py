"""The search compiles what may fit, the simplest first, and ranks what does by its time."""

import dataclasses
import math

import fiddle as fdl
import pytest

from layers.errors import UserError
from runners.devices.collectives import Collective
from runners.devices.kernels import Kernel
from runners.devices.meshes import MeshShape
from runners.devices.rates import Rates
from runners.planning import search as plan_search
from runners.planning.exchanges import exchange_seconds
from runners.planning.plan import CompileError, Plan
from runners.planning.topologies import parse
from tests.runners.toy_run import toy_config

GIB = 2**30
RECOMPUTED = {"full": 4 / 3, "save_attention": 1.25, "minimal": 1.1, "none": 1.0}
ACTIVATIONS = {"full": 1, "save_attention": 2, "minimal": 8, "none": 30}  # GiB of a row


def _fake(asked):
  """A planner that knows without compiling; `asked` collects the configs it is asked about."""

  def plan(config, exp, topology, stop):
    asked.append(config)
    mesh = fdl.build(config.mesh).sizes(topology.num_devices)
    rows = config.microbatch_size // (mesh["data"] * mesh["fsdp"])
    activations = ACTIVATIONS[config.model.remat] * rows * GIB
    held = {"activations": activations, "peak": 2 * GIB + activations, "available": 59 * GIB}
    microbatches = config.batch_size // config.microbatch_size
    along = tuple(axis for axis, size in mesh.items() if size > 1)
    exchange = Collective("all-gather", along, 1, microbatches * GIB, "")
    return Plan(
      devices=topology.num_devices,
      mesh=mesh,
      compiled_for="nothing",
      parameters=1,
      units_per_step=1,
      num_steps=1,
      num_layers=1,
      num_microbatches=microbatches,
      flops_per_step=10**15,
      hardware_flops_per_step=int(RECOMPUTED[config.model.remat] * 10**15),
      bytes_per_device=held,
      collectives=[exchange],
      compile_seconds=1.0,
      refusal=None,
      over_budget=(),
      notes=(),
      peak_flops=1e15,
      exchange_seconds=exchange_seconds([exchange], mesh, topology),
    )

  return plan


@pytest.fixture
def asked(monkeypatch):
  configs: list = []
  monkeypatch.setattr(plan_search, "plan", _fake(configs))
  monkeypatch.setattr(plan_search.os, "cpu_count", lambda: 1)  # in order
  return configs


def _config(**fields):
  return toy_config(**{"batch_size": 32, "mesh": fdl.Config(MeshShape), **fields})


def test_rows_grow_until_memory_is_full_and_less_is_recomputed_while_it_fits(asked):
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  first = [str(one.candidate) for one in found.ranked if one.candidate.mesh["fsdp"] == 8]
  assert sorted(first) == [
    "fsdp=8 remat=full microbatch=32",
    "fsdp=8 remat=full microbatch=8",
    "fsdp=8 remat=minimal microbatch=32",  # 4 rows of 8 GiB each
    "fsdp=8 remat=minimal microbatch=8",
    "fsdp=8 remat=none microbatch=8",  # a second row of 30 GiB has no room
    "fsdp=8 remat=save_attention microbatch=32",
    "fsdp=8 remat=save_attention microbatch=8",
  ]
  assert found.num_untried == 0


def test_what_fits_is_ranked_by_products_and_exchanges_together(asked):
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  seconds = [one.seconds for one in found.ranked]
  assert seconds == sorted(seconds)
  best = found.best
  assert best.settings["model.remat"] == "none"  # less to compute is worth the exchanges
  assert best.settings["microbatch_size"] == 8
  assert best.seconds == pytest.approx(1 / 8 + 4 * GIB / 450e9)


def test_where_kernels_are_known_the_rank_is_by_their_bound(monkeypatch):
  inner = _fake([])

  def with_kernels(config, *rest):
    recomputes = config.model.remat == "full"
    size = 10**9 if recomputes else 4 * 10**9  # what is kept passes through memory
    kernel = Kernel("k", "products", 1, 10**12, size, 0, 0, "", "")
    known = {"kernels": [kernel], "rates": Rates(1e15, 1e12, 0.0), "exchange_seconds": 0.0}
    return dataclasses.replace(inner(config, *rest), **known)

  monkeypatch.setattr(plan_search, "plan", with_kernels)
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  assert found.best.settings["model.remat"] == "full"
  assert found.best.seconds == pytest.approx(1e-3)  # products hide the bytes of their kernel
  assert found.ranked[-1].seconds == pytest.approx(4e-3)
  head, best = plan_search.ranking(found)[:2]
  assert head.split()[-8:] == "products s memory s exchanges s step s at best".split()[-8:]
  assert best.split()[-4:] == ["0.001", "0.001", "0", "0.001"]


def test_settings_are_those_that_set_takes_and_say_the_whole_mesh(asked):
  candidate = plan_search.Candidate(
    {"data": 2, "fsdp": 4, "sequence": 1, "expert": 1, "tensor": 1}, "full", 3
  )
  config = candidate.applied(_config())
  assert candidate.settings["microbatch_size"] == config.microbatch_size == 24
  assert (config.mesh.data, config.mesh.fsdp, config.model.remat) == (2, 4, "full")


def test_meshes_that_divide_neither_model_nor_batch_are_left_out(asked):
  found = plan_search.search(_config(batch_size=4), "toy", parse("h100:1x8"), 60)
  for one in (*found.ranked, *found.too_large):
    mesh = one.candidate.mesh
    assert mesh["data"] * mesh["fsdp"] <= 4
    assert math.prod(mesh.values()) == 8
    assert mesh["tensor"] <= 4  # heads


def test_time_that_is_up_leaves_the_rest_untried(asked):
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 0)
  assert len(asked) == 1
  assert found.num_untried > 0
  assert "were not tried: give them time with --minutes" in plan_search.ranking(found)[-1]


def test_where_nothing_can_hold_the_state_the_cure_is_named(asked, monkeypatch):
  monkeypatch.setattr(plan_search, "usable_bytes", lambda topology: 1000)
  with pytest.raises(UserError, match="take more devices"):
    plan_search.search(_config(), "toy", parse("h100:1x8"), 60)


def test_what_exceeds_the_collective_budget_is_not_ranked(monkeypatch):
  inner = _fake([])
  over = lambda *x: dataclasses.replace(inner(*x), over_budget=("all-gather ...",))
  monkeypatch.setattr(plan_search, "plan", over)
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  assert found.ranked == [] and found.best is None and found.too_large


def test_one_that_cannot_be_compiled_is_told_and_leaves_the_others(monkeypatch):
  inner, calls = _fake([]), []

  def sometimes(*arguments):
    calls.append(arguments)
    if len(calls) == 1:
      raise CompileError("frame\nthe last line")
    return inner(*arguments)

  monkeypatch.setattr(plan_search, "plan", sometimes)
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  assert found.best is not None
  (failure,) = found.failed
  assert failure.endswith(": the last line")
  assert f"failed: {failure}" in plan_search.ranking(found)


def test_ctrl_c_leaves_what_was_found(monkeypatch):
  inner, calls = _fake([]), []

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return inner(*arguments)

  monkeypatch.setattr(plan_search, "plan", interrupted)
  monkeypatch.setattr(plan_search.os, "cpu_count", lambda: 1)
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  assert found.interrupted and len(found.ranked) == 1 and len(calls) == 2


def test_where_no_speed_is_known_what_computes_least_is_first(monkeypatch):
  inner = _fake([])
  slow = lambda *x: dataclasses.replace(inner(*x), peak_flops=None)
  monkeypatch.setattr(plan_search, "plan", slow)
  found = plan_search.search(_config(), "toy", parse("h100:1x8"), 60)
  assert found.best.settings["model.remat"] == "none"
  assert "nan" not in "".join(plan_search.ranking(found))
